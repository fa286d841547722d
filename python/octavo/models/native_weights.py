"""Weights for the native decoder: where they lie in the file, how they are kept, and how many bytes that is.

    matrix_format(model, name)                  what a matrix is packed as; None: as it is stored
    native_bytes(spec, encodings, model)        for the memory plan
    load_native(decoder, spec, checkpoint, …)   reads; `loading` is strict about names and shapes
    random_native(decoder, spec, …)             --load-format dummy

Matrices go to Rust as the bytes of the mapped file, which it packs in parallel; Python copies none.
"""

from collections.abc import Mapping
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from octavo._core import NativeDecoder
from octavo.config import ModelConfig
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, TensorInfo
from octavo.models.layout import Parameter, parameters
from octavo.models.loading import Progress, check_tensors
from octavo.models.spec import DecoderSpec

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Formats of what is stored as floats; GGML's blocks keep their names."""

ENCODINGS = (*FLOATS, "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")

DUMMY_EXPONENT = 121 << 7
"""In bfloat16's bits: random weights lie between 2^-6 and 2^-5, of either sign."""


def matrix_format(model: ModelConfig, name: str) -> str | None:
    """The format that the options ask for; None: each part as it is stored.

    int4 keeps the embedding and the head in int8: 16 steps for a token's whole row cost more than in any other matrix.
    """
    if model.quantization == "int4" and name in ("embedding", "head"):
        return "int8"
    if model.quantization in ("int8", "int4"):
        return model.quantization
    return None if model.dtype == "auto" else model.dtype


def native_bytes(spec: DecoderSpec, encodings: Mapping[str, str], model: ModelConfig) -> int:
    """Bytes of all parameters, from the encoding of each source tensor."""
    total = 0
    for parameter in parameters(spec):
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


def load_native(decoder: NativeDecoder, spec: DecoderSpec, checkpoint: Checkpoint, model: ModelConfig) -> None:
    """Fills every parameter, with a progress bar of bytes on stderr. ModelError names the tensor that is wrong."""
    tensors = check_tensors(spec, checkpoint)
    with Progress(tensors, checkpoint) as progress:
        for parameter in parameters(spec):
            try:
                if parameter.is_matrix:
                    stored = [checkpoint.stored(source) for source, _ in parameter.sources]
                    parts = [(each.data, each.rows, each.encoding, each.interleaved_head) for each in stored]
                    decoder.load_matrix(parameter.name, parts, matrix_format(model, parameter.name))
                else:
                    vectors = [_vector(checkpoint, source, tensors[source]) for source, _ in parameter.sources]
                    decoder.load_vector(parameter.name, np.concatenate(vectors))
            except ValueError as error:
                raise ModelError(f"{parameter.sources[0][0]}: {error}") from None
            for source, _ in parameter.sources:
                progress.loaded(source)
    decoder.finish()


def random_native(decoder: NativeDecoder, spec: DecoderSpec, model: ModelConfig, kind: str) -> None:
    """Weights of the usual size, kept as `kind` unless the options say more; equal for equal seeds. Norms are 1."""
    generator = np.random.default_rng(model.seed)
    for parameter in parameters(spec):
        if parameter.is_norm:
            decoder.load_vector(parameter.name, np.ones(parameter.shape, dtype=np.float32))
        elif not parameter.is_matrix:
            decoder.load_vector(parameter.name, np.zeros(parameter.shape, dtype=np.float32))
        else:
            columns = parameter.shape[1]
            parts = [(_random_bits(generator, rows, columns), rows, "BF16", 0) for _, rows in parameter.sources]
            decoder.load_matrix(parameter.name, parts, matrix_format(model, parameter.name) or kind)
    decoder.finish()


def _format(encoding: str) -> str:
    return FLOATS.get(encoding, encoding)


def _matrices(parameter: Parameter) -> list[tuple[tuple[str, int], ...]]:
    """The decoder keeps gate and up as two matrices: their products go into one result."""
    if parameter.name.endswith(".gate_up"):
        return [(source,) for source in parameter.sources]
    return [parameter.sources]


def _vector(checkpoint: Checkpoint, name: str, info: TensorInfo) -> NDArray[np.float32]:
    values = checkpoint.read(name)
    if info.dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if values.dtype.kind != "f":
        raise ModelError(f"{name} has element type {info.dtype}, which is not supported")
    return values.astype(np.float32)


def _random_bits(generator: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint8]:
    bits = np.frombuffer(generator.bytes(2 * rows * columns), dtype=np.uint16)
    return ((bits & 0x807F) | DUMMY_EXPONENT).view(np.uint8).reshape(rows, 2 * columns)
