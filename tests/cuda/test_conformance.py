"""The experiments that compare a GPU with the emulation, run on the emulation: they are whole, and see differences."""

import re
from itertools import islice

import numpy as np
import pytest
from conformance import EXPERIMENTS, SOURCE, Experiment, differences, on_host
from host import KERNELS, schedules

CUDA_LANGUAGE = re.compile(r"^(?:inline \w+|T|template \S+ T) (__[a-z]\w+|atomic[A-Z]\w+)\(", re.MULTILINE)
WRAPPER = re.compile(r"^OCTAVO_DEVICE \w+ (\w+)\(", re.MULTILINE)


def name_of(experiment: Experiment) -> str:
    return experiment.kernel


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=name_of)
def test_every_order_gives_the_same_words(experiment: Experiment) -> None:
    first = on_host(experiment)
    for schedule in islice(schedules(5), 5):
        assert (on_host(experiment, schedule) == first).all()
    assert not len(differences(experiment, first, first))
    changed = first.copy()
    changed[len(first) // 2] ^= 1 << 20
    assert len(differences(experiment, first, changed)) == 1


def test_a_difference_within_the_tolerance_is_none() -> None:
    (experiment,) = (each for each in EXPERIMENTS if each.kernel == "multiply_bf16")
    result = on_host(experiment).view(np.float32)
    assert not len(differences(experiment, result.view(np.uint32), (result * np.float32(1 + 1e-6)).view(np.uint32)))


def test_every_wrapper_and_every_emulated_function_is_in_an_experiment() -> None:
    source = SOURCE.read_text()
    wrappers = set(WRAPPER.findall((KERNELS / "ptx.cuh").read_text())) - {"shared_address"}
    language = set(CUDA_LANGUAGE.findall((KERNELS / "host" / "cuda_language.h").read_text()))
    assert len(wrappers) > 15
    assert len(language) > 15
    assert {name for name in wrappers | language if not re.search(rf"\b{name}\b", source)} == set()
    assert {experiment.kernel for experiment in EXPERIMENTS} == set(re.findall(r"^EXPERIMENT\((\w+)", source, re.M))
