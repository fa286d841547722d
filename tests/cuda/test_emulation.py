"""The emulation of CUDA on the CPU: it computes what a GPU does, and notices what a GPU would not forgive."""

import ctypes
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from host import HostKernels, KernelFault, Landing, Order, Schedule, guarded, schedules
from narrow import DECODE, ENCODE, FP8_VALUES, from_fp16, to_fp8

MISTAKES = {
    1: "outside of every array",
    2: "outside of every array",
    3: "outside of every array",
    4: "behind shared memory",
    5: "deadlock",
    6: "deadlock",
    7: "lanes of a warp meet in",
    8: "not in its own mask",
    9: "which is not there",
    10: "not aligned",
    11: "of shared memory",
    12: "never waited for",
    13: "no barrier 20",
    14: "not whole warps",
    15: "divided by zero",
    16: "not aligned",
}


@pytest.fixture(scope="module")
def kernels() -> HostKernels:
    return HostKernels(Path(__file__).parent / "kernels" / "emulation.cu")


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_a_product_of_fragments_is_the_product_of_the_matrices(kernels: HostKernels, kind: str) -> None:
    random = np.random.default_rng(1)
    a, b, sums = (random.standard_normal(shape) for shape in ((16, 16), (8, 16), (16, 8)))
    left, right = guarded(ENCODE[kind](a)), guarded(ENCODE[kind](b))
    result = guarded(sums.astype(np.float32))
    expected = result + DECODE[kind](left).astype(np.float64) @ DECODE[kind](right).T
    kernels.launch("multiply", 1, [left, right, result, ctypes.c_int(kind == "fp16")], Schedule(Order.SHUFFLED))
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert kernels.statistics.bank_conflicts == 0


def test_matrices_are_transposed_on_request(kernels: HostKernels) -> None:
    matrix = guarded(np.arange(256, dtype=np.uint16).reshape(16, 16))
    output = guarded(np.zeros(192, np.uint32))
    kernels.launch("transpose", 1, [matrix, output])
    transposed = output.view(np.uint16)
    assert (transposed[:256].reshape(16, 16) == matrix.T).all()
    assert (transposed[256:].reshape(8, 16) == matrix.T[:8]).all()


def test_fp8_is_converted_exactly_and_rounded_to_nearest(kernels: HostKernels) -> None:
    random = np.random.default_rng(2)
    magnitudes = FP8_VALUES[:127].astype(np.float64)
    ties = (magnitudes[:-1] + magnitudes[1:]) / 2
    floats = random.standard_normal(4096) * np.exp2(random.uniform(-12, 10, 4096))
    floats[:127], floats[127:253], floats[253:260] = magnitudes, ties, [0, -0.0, 464, 465, 1e9, np.inf, 2**-10]
    codes, values = guarded(np.arange(256, dtype=np.uint8)), guarded(floats.astype(np.float32))
    fp16, moved = guarded(np.zeros(256, np.uint32)), guarded(np.zeros(256, np.uint32))
    fp8, arithmetic = guarded(np.zeros(4096, np.uint32)), guarded(np.zeros(4096, np.uint32))
    kernels.launch("convert_fp8", 1, [codes, values, fp16, moved, fp8, arithmetic])
    finite = np.isfinite(FP8_VALUES) & np.isfinite(FP8_VALUES[::-1])
    pairs = fp16.view(np.uint16).reshape(256, 2)
    np.testing.assert_array_equal(from_fp16(pairs[:, 0]), FP8_VALUES)
    np.testing.assert_array_equal(from_fp16(pairs[:, 1]), FP8_VALUES[::-1])
    software = from_fp16(moved.view(np.uint16)).reshape(256, 2) * 256
    np.testing.assert_array_equal(software[finite, 0], FP8_VALUES[finite])
    np.testing.assert_array_equal(fp8 & 0xFF, to_fp8(values))
    np.testing.assert_array_equal(fp8 >> 8, to_fp8(-values))
    np.testing.assert_array_equal(arithmetic, fp8)


def test_shuffles_and_votes(kernels: HostKernels) -> None:
    output = guarded(np.zeros(196, np.int32))
    lane = np.arange(32)
    kernels.launch("shuffle", 1, [output], Schedule(Order.SHUFFLED, seed=3))
    votes = np.int64(sum(1 << int(i) for i in lane[::3])).astype(np.uint32).view(np.int32)
    expected = [
        np.full(32, 5),
        lane ^ 3,
        np.where(lane < 23, lane + 9, lane),
        np.where(lane >= 9, lane - 9, lane),
        lane // 8 * 8 + 1,
        np.full(32, votes),
        np.array([1, 0, 3, 2]),
    ]
    np.testing.assert_array_equal(output, np.concatenate(expected))


def outcomes(run: Callable[[Schedule], bool]) -> set[bool]:
    return {run(schedule) for schedule in islice(schedules(), 24)}


@pytest.mark.parametrize("name", ["hand_over", "hand_over_in_warp", "hand_over_by_name"])
def test_a_missing_barrier_shows_in_some_order_and_a_right_kernel_in_none(kernels: HostKernels, name: str) -> None:
    def is_right(schedule: Schedule, mistake: int) -> bool:
        output = guarded(np.zeros(32, np.int32))
        kernels.launch(name, 2, [output, ctypes.c_int(mistake)], schedule)
        return bool((output == np.arange(31, -1, -1)).all())

    assert outcomes(lambda schedule: is_right(schedule, 0)) == {True}
    assert False in outcomes(lambda schedule: is_right(schedule, 1))


@pytest.mark.parametrize("mistake", range(4))
def test_asynchronous_copies_land_at_once_or_late(kernels: HostKernels, mistake: int) -> None:
    numbers = np.arange(512, dtype=np.int32).reshape(128, 4)
    expected = numbers.copy()
    expected[65::2] = 0  # these copies were not valid: zeros
    expected = np.concatenate([expected[63::-1], expected[:63:-1]])

    def is_right(schedule: Schedule) -> bool:
        output = guarded(np.zeros_like(numbers))
        kernels.launch("copy_groups", 1, [guarded(numbers), output, ctypes.c_int(mistake)], schedule)
        return bool((output == expected).all())

    assert (False in outcomes(is_right)) == (mistake > 0)
    assert is_right(Schedule(Order.FORWARD, Landing.LATE)) == (mistake == 0)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_the_launch_and_nothing_else(kernels: HostKernels, mistake: int) -> None:
    output = guarded(np.zeros(64, np.int32))
    for schedule in islice(schedules(mistake), 4):
        with pytest.raises(KernelFault, match=MISTAKES[mistake]):
            kernels.launch("misbehave", 1, [output, ctypes.c_int(mistake)], schedule)
        kernels.launch("misbehave", 1, [output, ctypes.c_int(0)], schedule)
        assert (output == np.arange(64) % 32).all()


def test_bank_conflicts_are_counted(kernels: HostKernels) -> None:
    for pitch, conflicts in ((144, 0), (16, 0), (32, 4 * 4), (64, 6 * 4), (128, 7 * 4)):
        before = kernels.statistics.bank_conflicts
        kernels.launch("read_columns", 1, [ctypes.c_int(pitch)])
        assert kernels.statistics.bank_conflicts - before == conflicts
