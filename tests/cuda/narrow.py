"""bf16, fp16 and e4m3 as numpy sees them: bits in uint16 and uint8. All rounding is to nearest, ties to even."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def to_bf16(values: Array) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: Array) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_fp16(values: Array) -> NDArray[np.uint16]:
    return np.asarray(values, np.float16).view(np.uint16)


def from_fp16(bits: Array) -> NDArray[np.float32]:
    return bits.view(np.float16).astype(np.float32)


def _fp8_values() -> NDArray[np.float32]:
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    values = np.where(code & 128, -magnitude, magnitude).astype(np.float32)
    values[[0x7F, 0xFF]] = np.nan
    return values


FP8_VALUES = _fp8_values()
"""Of each of the 256 codes."""


def to_fp8(values: Array) -> NDArray[np.uint8]:
    """The nearest code, of two the even one; at most ±448."""
    magnitudes = FP8_VALUES[:0x7F].astype(np.float64)
    middles = (magnitudes[:-1] + magnitudes[1:]) / 2
    size = np.abs(np.asarray(values, np.float64))
    code = np.searchsorted(middles, size, side="left")
    tie = (code < len(middles)) & (size == middles[np.minimum(code, len(middles) - 1)])
    code = np.where(tie & (code % 2 == 1), code + 1, code)
    return (code | np.where(np.signbit(values), 128, 0)).astype(np.uint8)


def from_fp8(bits: Array) -> NDArray[np.float32]:
    return FP8_VALUES[bits]


ENCODE: dict[str, Callable[[Array], Array]] = {"bf16": to_bf16, "fp16": to_fp16, "fp8": to_fp8}
DECODE: dict[str, Callable[[Array], Array]] = {"bf16": from_bf16, "fp16": from_fp16, "fp8": from_fp8}
NAN = {"bf16": 0x7FC0, "fp16": 0x7E00, "fp8": 0x7F}
"""The code of NaN, to fill with what must not be read."""
