"""How the native models keep each matrix, and how many bytes that is: for the memory plan, without NumPy.

matrix_format(model, name)                  what a matrix is packed as; None: as it is stored
native_bytes(parameters, encodings, model)  for the memory plan
"""

from collections.abc import Iterable, Mapping
from itertools import groupby

from octavo._core import NativeDecoder
from octavo.config import ModelConfig
from octavo.models.layout import Parameter

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Formats of what is stored as floats; GGML's blocks keep their names."""

ENCODINGS = (*FLOATS, "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")


SMALL = ("positions", "types", "pooler", "classifier")
"""Matrices of a model that pools."""


def matrix_format(model: ModelConfig, name: str) -> str | None:
    """The format that the options ask for; None: each part as it is stored.

    int4 keeps the embedding and the head in int8: 16 steps for a token's whole row cost more than in any other matrix.
    Tables that are only added, and what makes a few numbers of a vector, stay as they are.
    """
    if name in SMALL:
        return "float32"
    if model.quantization == "int4" and name in ("embedding", "head"):
        return "int8"
    if model.quantization in ("int8", "int4"):
        return model.quantization
    return None if model.dtype == "auto" else model.dtype


def native_bytes(found: Iterable[Parameter], encodings: Mapping[str, str], model: ModelConfig) -> int:
    """Bytes of all parameters, from the encoding of each source tensor."""
    total = 0
    for parameter in found:
        if not parameter.is_matrix:
            total += 4 * parameter.shape[0]
            continue
        asked = matrix_format(model, parameter.name)
        for matrix in _matrices(parameter):
            formats = [(asked or _format(encodings[source]), rows) for source, rows in matrix]
            # Neighbours of one format are packed as one.
            for kind, parts in groupby(formats, key=lambda part: part[0]):
                rows = sum(count for _, count in parts)
                total += NativeDecoder.packed_bytes(rows, parameter.shape[1], kind)
    return total


def _format(encoding: str) -> str:
    return FLOATS.get(encoding, encoding)


def _matrices(parameter: Parameter) -> list[tuple[tuple[str, int], ...]]:
    """The decoder keeps gate and up as two matrices: their products go into one result."""
    if parameter.name.endswith(".gate_up"):
        return [(source,) for source in parameter.sources]
    return [parameter.sources]
