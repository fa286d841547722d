"""Does the emulation do what a GPU does? The experiments of kernels/conformance.cu, and how their results compare.

EXPERIMENTS      what goes in, and how closely a GPU must agree with the emulation
on_host          runs one on the CPU; a GPU's launcher runs the same source on the same words
differences      where two results differ by more than they may

Bits are equal wherever the numbers are exact or rounded by rule. Approximations may differ as PTX says; sums of
products by what tensor cores drop when they align the terms of a sum.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from host import EmulatedKernels, Schedule, guarded
from narrow import DECODE, ENCODE
from numpy.typing import NDArray

Array = NDArray[Any]
SOURCE = Path(__file__).parent / "kernels" / "conformance.cu"
NUM_WORDS = 4096


@dataclass(frozen=True)
class Experiment:
    kernel: str
    words: Array
    """uint32; what the kernel reads."""
    relative: float = 0.0
    """Results are floats, and differ by that at most; 0: they are bits, and equal."""
    absolute: float = 0.0


def _floats(values: Array) -> Array:
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


def _ladder(random: np.random.Generator, low: float, high: float) -> Array:
    """Floats of both signs, whose logarithms are spread evenly."""
    return np.exp2(random.uniform(low, high, NUM_WORDS)) * random.choice([-1, 1], NUM_WORDS)


def _numbers_to_round(random: np.random.Generator) -> Array:
    """Of every size, with ties of each type, and what has no other place: zeros, infinities, NaN."""
    numbers = _ladder(random, -30, 20).astype(np.float32)
    codes = {"bf16": np.arange(0x3F00, 0x4100), "fp16": np.arange(0, 0x7BFF, 61), "fp8": np.arange(0x7E)}
    ties = [
        (DECODE[kind](code.astype(kind_of)).astype(np.float64) + DECODE[kind]((code + 1).astype(kind_of))) / 2
        for (kind, code), kind_of in zip(codes.items(), (np.uint16, np.uint16, np.uint8), strict=True)
    ]
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 448, 464, 465, -500, 65504, 65519, 65520, 0.5, 1.5, 2.5, 1e-45, 3e38]
    chosen = np.concatenate([special, *ties])
    numbers[: len(chosen)] = chosen
    return numbers


def _fragments(random: np.random.Generator, kind: str) -> Array:
    """Words of a and b for 32 lanes, then their sums."""
    factors = ENCODE[kind](random.standard_normal(6 * 32 * 2)).view(np.uint32)
    return np.concatenate([factors, _floats(random.standard_normal(4 * 32))])


def _experiments() -> tuple[Experiment, ...]:
    random = np.random.default_rng(20)

    def bits(count: int) -> Array:
        return random.integers(0, 1 << 32, count, np.uint32)

    pairs = np.arange(1 << 16, dtype=np.uint32)
    exponents = np.concatenate([random.uniform(-126, 127, NUM_WORDS - 4), [0, -np.inf, -200, 127.5]])
    magnitudes = np.abs(_ladder(random, -126, 127))
    magnitudes[:3] = 1, 0, np.inf
    inverses = _ladder(random, -120, 120)
    inverses[:2] = 1, np.inf
    return (
        Experiment("pack_numbers", _floats(_numbers_to_round(random))),
        Experiment("multiply_pairs", _floats(random.integers(-15, 16, NUM_WORDS) / 2)),
        Experiment("unpack_numbers", pairs | pairs << np.uint32(16)),
        Experiment("approximate_exp2", _floats(exponents), relative=2.0**-21, absolute=2.0**-126),
        Experiment("approximate_log2", _floats(magnitudes), relative=2.0**-21, absolute=2.0**-21),
        Experiment("approximate_reciprocals", _floats(inverses), relative=2.0**-21, absolute=2.0**-126),
        Experiment("bits_of_words", np.concatenate([bits(NUM_WORDS - 2), np.array([0, ~np.uint32(0)], np.uint32)])),
        Experiment("copy_in_groups", bits(704)),
        Experiment("read_matrices", bits(128)),
        Experiment("multiply_bf16", _fragments(random, "bf16"), relative=1e-5, absolute=1e-5),
        Experiment("multiply_fp16", _fragments(random, "fp16"), relative=1e-5, absolute=1e-5),
        Experiment("exchange_between_lanes", bits(32)),
        Experiment("meet_at_barriers", bits(64)),
        Experiment("meet_in_memory", bits(128)),
    )


EXPERIMENTS = _experiments()


@cache
def _host_kernels() -> EmulatedKernels:
    return EmulatedKernels(SOURCE)


def on_host(experiment: Experiment, schedule: Schedule | None = None) -> Array:
    """The words that the emulation writes."""
    kernels = _host_kernels()
    assert len(experiment.words) == kernels.constant(f"{experiment.kernel}_inputs")
    output = guarded(np.full(kernels.constant(f"{experiment.kernel}_outputs"), 0xDEADBEEF, np.uint32))
    kernels.launch(experiment.kernel, 1, [guarded(experiment.words), output], schedule or Schedule())
    return output


def differences(experiment: Experiment, one: Array, other: Array) -> Array:
    """The places of two results where they differ by more than they may. NaN agrees with NaN, of any bits."""
    if not experiment.relative:
        return np.flatnonzero(one != other)
    left, right = (words.view(np.float32).astype(np.float64) for words in (one, other))
    agree = np.isclose(left, right, rtol=experiment.relative, atol=experiment.absolute, equal_nan=True)
    return np.flatnonzero(~agree)
