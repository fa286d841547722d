"""On a GPU only: each PTX wrapper, and each function of CUDA that is emulated, does there what its emulation does."""

import numpy as np
import pytest
from conformance import EXPERIMENTS, SOURCE, Experiment, differences, on_host
from host import EMULATED, HostKernels, guarded

pytestmark = pytest.mark.skipif(EMULATED, reason="needs a GPU: pytest tests/cuda --gpu")


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.kernel)
def test_the_gpu_agrees_with_the_emulation(experiment: Experiment) -> None:
    kernels = HostKernels(SOURCE)  # which conftest.py has replaced
    words = guarded(experiment.words)
    output = guarded(np.zeros(kernels.constant(f"{experiment.kernel}_outputs"), np.uint32))
    kernels.launch(experiment.kernel, 1, [words, output])
    wrong = differences(experiment, on_host(experiment), output)
    assert not len(wrong), f"{len(wrong)} of {len(output)} words differ, the first at {wrong[:5]}"
