"""Products for gemm_w4a16. check packs random weights, runs the kernel, and compares with float64."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from attention import TYPES
from host import KERNELS, HostKernels, Schedule, guarded
from narrow import DECODE, ENCODE, NAN
from numpy.typing import NDArray

from octavo.backends.cuda.arguments import Int4GemmCall
from octavo.backends.cuda.int4 import Int4Weights, pack

Array = NDArray[Any]
EPS = {"bf16": 2.0**-8, "fp16": 2.0**-11}
"""Half a step of rounding, relative."""


@dataclass(frozen=True)
class Case:
    rows: int = 3
    inputs: int = 128
    outputs: int = 64
    group: int = 64
    element: Literal["bf16", "fp16"] = "bf16"
    token_tiles: int = 1
    splits: int = 1
    bias: bool = False
    cancelling: bool = False
    """The last split's sums are large, and take away the first one's: their order shows in the result."""
    gap: int = 0
    """Elements between rows of x; twice as many between those of the output."""
    grid: int = 2
    seed: int = 0


@cache
def kernels_of(element: str, token_tiles: int, folder: Path = KERNELS) -> HostKernels:
    macros: dict[str, str | int] = {"ELEMENT_TYPE": TYPES[element], "TOKEN_TILES": token_tiles}
    return HostKernels(folder / "gemm_w4a16.cu", macros, folder)


def random_weights(random: np.random.Generator, inputs: int, outputs: int, group: int) -> Int4Weights:
    groups = inputs // group
    return Int4Weights(
        torch.from_numpy(random.integers(0, 16, (inputs, outputs)).astype(np.uint8)),
        torch.from_numpy(random.integers(0, 17, (groups, outputs)).astype(np.uint8)),
        torch.from_numpy(random.uniform(0.01, 1, (groups, outputs)).astype(np.float16)),
    )


def dequantised(weights: Int4Weights) -> Array:
    """float64 [inputs, outputs]"""
    group = weights.codes.shape[0] // weights.scales.shape[0]
    zeros, scales = (each.double().repeat_interleave(group, 0) for each in (weights.zeros, weights.scales))
    values: Array = ((weights.codes.double() - zeros) * scales).numpy()
    return values


def check(case: Case, schedule: Schedule, folder: Path = KERNELS) -> bytes:
    """Returns the output's bytes."""
    random = np.random.default_rng(case.seed)
    weights = random_weights(random, case.inputs, case.outputs, case.group)
    numbers = random.standard_normal((case.rows, case.inputs))
    if case.cancelling:
        part, groups = case.inputs // case.splits, case.inputs // case.splits // case.group
        numbers[:, :part] *= 1000
        numbers[:, -part:] = -numbers[:, :part]
        weights.codes[-part:] = weights.codes[:part]
        weights.zeros[-groups:], weights.scales[-groups:] = weights.zeros[:groups], weights.scales[:groups]
    packed = pack(weights)

    fused = np.full((case.rows, case.inputs + case.gap), NAN[case.element], np.uint16)
    fused[:, : case.inputs] = ENCODE[case.element](numbers)
    x = DECODE[case.element](fused[:, : case.inputs]).astype(np.float64)
    bias = ENCODE[case.element](random.standard_normal(case.outputs) * 3)
    matrix = dequantised(weights)
    expected = x @ matrix + (DECODE[case.element](bias) if case.bias else 0)

    kernels = kernels_of(case.element, case.token_tiles, folder)
    tiles = -(-case.rows // kernels.constant("gemm_w4a16_rows")) * -(-case.outputs // 128)
    partial_sums = np.full((tiles, case.splits, kernels.constant("gemm_w4a16_rows") * 128), np.nan, np.float32)
    blank = np.full((case.rows, case.outputs + 2 * case.gap), NAN[case.element], np.uint16)
    out, arrived = guarded(blank), guarded(np.zeros(tiles, np.int32))
    arrays = [guarded(each) for each in (fused, packed.weights.numpy(), packed.scales.numpy(), bias, partial_sums)]
    addresses = [array.ctypes.data for array in arrays]
    call = Int4GemmCall(
        x=addresses[0],
        weights=addresses[1],
        scales=addresses[2],
        bias=addresses[3] if case.bias else None,
        out=out.ctypes.data,
        partial_sums=addresses[4] if case.splits > 1 else None,
        num_arrived=arrived.ctypes.data if case.splits > 1 else None,
        x_stride=case.inputs + case.gap,
        out_stride=case.outputs + 2 * case.gap,
        num_rows=case.rows,
        num_inputs=case.inputs,
        num_outputs=case.outputs,
        group_size=case.group,
        num_splits=case.splits,
    )
    kernels.launch("gemm_w4a16", case.grid, [call], schedule)

    assert not arrived.any(), "the counters are not zeros again"
    assert (out[:, case.outputs :] == NAN[case.element]).all(), "between the rows something changed"
    actual = DECODE[case.element](out[:, : case.outputs]).astype(np.float64)
    allowed = np.abs(expected) * EPS[case.element] + 1e-5 * (np.abs(x) @ np.abs(matrix) + np.abs(expected))
    wrong = ~(np.abs(actual - expected) <= allowed)
    assert not wrong.any(), f"{actual[wrong][0]} for {expected[wrong][0]} at {np.argwhere(wrong)[0]}"
    assert not kernels.statistics.bank_conflicts, f"{kernels.statistics.bank_conflicts} bank conflicts"
    return out.tobytes()
