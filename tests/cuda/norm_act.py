"""Rows for rms_norm, add_rms_norm and gated_act, and what they must give, in float64.

Case     which kernel, shapes, types
check    runs the kernel, compares, and finds the rest of every array as it was
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attention import TYPES
from host import KERNELS, HostKernels, Schedule, guarded
from narrow import DECODE, ENCODE, NAN
from numpy.typing import NDArray

from octavo.backends.cuda.arguments import Activation, GatedCall, NormCall

Array = NDArray[Any]
ALL_TYPES = TYPES | {"int8": "Int8"}
LARGEST = {"fp8": 448.0, "int8": 127.0}
EPS = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp8": 2.0**-4, "int8": 0.0}
"""Half a step of rounding, relative."""
SMALLEST = {"bf16": 0.0, "fp16": 2.0**-25, "fp8": 2.0**-10, "int8": 0.5}
"""Half of the smallest step."""


@dataclass(frozen=True)
class Case:
    kernel: Literal["rms_norm", "add_rms_norm", "gated_act"] = "rms_norm"
    rows: int = 3
    size: int = 64
    types: tuple[str, str] = ("bf16", "bf16")
    """Of the input, and of the output."""
    activation: Activation = Activation.SILU
    weight_offset: float = 0.0
    initialise: bool = False
    in_place: bool = False
    gap: int = 0
    """Elements between rows of the input; twice as many between those of the output."""
    spread: float = 1.0
    zero_row: bool = False
    """The first row is zeros."""
    grid: int = 2
    seed: int = 0


@cache
def kernels_of(types: tuple[str, str], folder: Path = KERNELS) -> HostKernels:
    macros = {"ELEMENT_TYPE": ALL_TYPES[types[0]], "OUTPUT_TYPE": ALL_TYPES[types[1]]}
    return HostKernels(folder / "norm_act.cu", macros, folder)


def activated(gate: Array, activation: Activation) -> Array:
    if activation == Activation.SILU:
        return gate / (1 + np.exp(-gate))
    if activation == Activation.GELU_TANH:
        return gate / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return gate / 2 * (1 + np.vectorize(math.erf)(gate / math.sqrt(2)))


def check(case: Case, schedule: Schedule, folder: Path = KERNELS) -> None:
    random = np.random.default_rng(case.seed)
    element, output = case.types
    quantised = output != element
    width = case.size * (2 if case.kernel == "gated_act" else 1)
    numbers = random.standard_normal((case.rows, width)) * case.spread
    numbers[0] *= not case.zero_row
    padded = np.full((case.rows, width + case.gap), NAN[element], np.uint16)
    padded[:, :width] = ENCODE[element](numbers)
    source = guarded(padded)
    x = DECODE[element](padded[:, :width]).astype(np.float64)

    out_gap = case.gap if case.in_place else 2 * case.gap
    dtype = np.uint8 if quantised else np.uint16
    blank = padded if case.in_place else np.full((case.rows, case.size + out_gap), 0x7F if quantised else NAN[output])
    target = source if case.in_place else guarded(blank.astype(dtype))
    scales = guarded(np.full(case.rows, np.nan, np.float32))
    outputs: dict[str, Any] = {"row_scales": scales.ctypes.data, "quantised": target.ctypes.data}
    if not quantised:
        outputs = {"out": target.ctypes.data}

    call: NormCall | GatedCall
    if case.kernel == "gated_act":
        call = GatedCall(
            gate_up=source.ctypes.data,
            gate_up_stride=width + case.gap,
            out_stride=case.size + out_gap,
            num_rows=case.rows,
            intermediate_size=case.size,
            activation=case.activation,
            **outputs,
        )
        expected = activated(x[:, : case.size], case.activation) * x[:, case.size :]
    else:
        weight = guarded(ENCODE[element](random.uniform(-1, 2, case.size)))
        first = np.full((case.rows, case.size), np.nan)  # is not read if it is to be initialised
        residual = guarded((first if case.initialise else random.standard_normal(first.shape) * 3).astype(np.float32))
        before = residual.astype(np.float64)
        call = NormCall(
            x=source.ctypes.data,
            weight=weight.ctypes.data,
            x_stride=width + case.gap,
            out_stride=case.size + out_gap,
            num_rows=case.rows,
            hidden_size=case.size,
            eps=1e-5,
            weight_offset=case.weight_offset,
            initialise=case.initialise,
            **outputs,
        )
        if case.kernel == "add_rms_norm":
            call.residual = residual.ctypes.data
            x = x if case.initialise else x + before
        mean = (x**2).mean(-1, keepdims=True)
        expected = x / np.sqrt(mean + 1e-5) * (DECODE[element](weight).astype(np.float64) + case.weight_offset)

    kernels_of(case.types, folder).launch(case.kernel, case.grid, [call], schedule)

    if case.kernel == "add_rms_norm":
        np.testing.assert_allclose(residual, x, rtol=1e-6, atol=1e-6)
    assert (target[:, case.size :] == blank[:, case.size :]).all(), "between the rows something changed"
    if not case.in_place:
        assert (source == padded).all(), "the input changed"
    stored = target[:, : case.size]
    if quantised:
        largest = np.abs(expected).max(-1)
        np.testing.assert_allclose(scales, largest / LARGEST[output], rtol=2e-5)
        expected = expected / np.maximum(scales[:, None], 1e-30)
        decoded = np.ascontiguousarray(stored).view(np.int8) if output == "int8" else DECODE["fp8"](stored)
        assert (np.abs(decoded).max(-1) == np.where(largest > 0, LARGEST[output], 0)).all(), "a scale is too large"
    else:
        decoded = DECODE[output](stored)
    size = np.linalg.norm(expected, axis=-1, keepdims=True)
    allowed = np.maximum(np.abs(expected) * EPS[output], SMALLEST[output]) * (1 + 1e-4) + 1e-6 * size
    wrong = ~(np.abs(decoded - expected) <= allowed)
    assert not wrong.any(), f"{decoded[wrong][0]} for {expected[wrong][0]} at {np.argwhere(wrong)[0]}"
