"""Pooled vectors as arrays, lists and bytes, and the cosine between them.

Imported when the first vector is there: NumPy's import takes a tenth of a second, and a server that generates never
needs it.
"""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from octavo._core import Pooled
from octavo.pooling import ElementType, Endianness

Vector = NDArray[np.float32]


def array_of(pooled: Pooled) -> Vector:
    """In its shape."""
    return np.frombuffer(pooled.data, "<f4").astype(np.float32, copy=False).reshape(pooled.shape)


def to_bytes(values: Vector, kind: ElementType, endianness: Endianness) -> bytes:
    """The numbers one after the other. bfloat16 is rounded to the nearest, ties to even."""
    if kind == "bfloat16":
        bits = values.view(np.uint32)
        numbers = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    else:
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite
            numbers = values.astype(kind)
    order = sys.byteorder if endianness == "native" else endianness
    return numbers.astype(numbers.dtype.newbyteorder("<" if order == "little" else ">")).tobytes()


def signs(values: Vector, *, signed: bool) -> list[int]:
    """One bit an element, eight to a number: 1 where it is above 0. The last number is filled up with zeros."""
    packed = np.packbits(values > 0)
    # Cohere's signed form is the unsigned one less 128.
    return [int(byte) - 128 for byte in packed] if signed else packed.tolist()


def cosines(first: Sequence[Vector], second: Sequence[Vector], pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Of each pair; 0 where a vector is 0."""
    return [cosine(first[one], second[other]) for one, other in pairs]


def cosine(first: Vector, second: Vector) -> float:
    length = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    return float(first @ second) / length if length else 0.0
