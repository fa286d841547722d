"""GGML's tensor types: number in a file, name, and how many elements a block of so many bytes holds.

Numbers and sizes as in https://github.com/ggml-org/ggml/blob/master/include/ggml.h. The `gguf` package has them too; it
is only imported by `dequantise`, for the torch executor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from octavo.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TensorType:
    number: int
    name: str
    block_elements: int
    block_bytes: int
    plain: str | None = None
    """NumPy's type of elements which are not quantised; BF16 as its bits."""


TYPES: dict[int, TensorType] = {
    kind.number: kind
    for kind in (
        TensorType(0, "F32", 1, 4, "<f4"),
        TensorType(1, "F16", 1, 2, "<f2"),
        TensorType(2, "Q4_0", 32, 18),
        TensorType(3, "Q4_1", 32, 20),
        TensorType(6, "Q5_0", 32, 22),
        TensorType(7, "Q5_1", 32, 24),
        TensorType(8, "Q8_0", 32, 34),
        TensorType(9, "Q8_1", 32, 40),
        TensorType(10, "Q2_K", 256, 84),
        TensorType(11, "Q3_K", 256, 110),
        TensorType(12, "Q4_K", 256, 144),
        TensorType(13, "Q5_K", 256, 176),
        TensorType(14, "Q6_K", 256, 210),
        TensorType(15, "Q8_K", 256, 292),
        TensorType(16, "IQ2_XXS", 256, 66),
        TensorType(17, "IQ2_XS", 256, 74),
        TensorType(18, "IQ3_XXS", 256, 98),
        TensorType(19, "IQ1_S", 256, 50),
        TensorType(20, "IQ4_NL", 32, 18),
        TensorType(21, "IQ3_S", 256, 110),
        TensorType(22, "IQ2_S", 256, 82),
        TensorType(23, "IQ4_XS", 256, 136),
        TensorType(24, "I8", 1, 1, "|i1"),
        TensorType(25, "I16", 1, 2, "<i2"),
        TensorType(26, "I32", 1, 4, "<i4"),
        TensorType(27, "I64", 1, 8, "<i8"),
        TensorType(28, "F64", 1, 8, "<f8"),
        TensorType(29, "IQ1_M", 256, 56),
        TensorType(30, "BF16", 1, 2, "<u2"),
        TensorType(34, "TQ1_0", 256, 54),
        TensorType(35, "TQ2_0", 256, 66),
        TensorType(39, "MXFP4", 32, 17),
        TensorType(40, "NVFP4", 64, 36),
        TensorType(41, "Q1_0", 128, 18),
    )
}


def dequantise(rows: NDArray[np.uint8], kind: TensorType) -> NDArray[Any]:
    """Float32 of stored rows, uint8[…, bytes a row]. ModelError, the end of a sentence, when there is no way to."""
    try:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError:
        raise ModelError("which only the gguf package can read: pip install 'octavo[torch]'") from None
    try:
        return dequantize(rows, GGMLQuantizationType(kind.number))
    except (NotImplementedError, ValueError):
        raise ModelError("which is not supported") from None
