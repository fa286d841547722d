"""Weights for the native decoder; how it keeps them stands in `native_format`.

    load_native(decoder, spec, checkpoint, …)   reads; `loading` is strict about names and shapes
    random_native(decoder, spec, …)             --load-format dummy

Matrices go to Rust as the bytes of the mapped file, which it packs in parallel; Python copies none.
"""

import numpy as np
from numpy.typing import NDArray

from octavo._core import NativeDecoder
from octavo.config import ModelConfig
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, TensorInfo
from octavo.models.layout import parameters
from octavo.models.loading import Progress, check_tensors
from octavo.models.native_format import matrix_format
from octavo.models.spec import DecoderSpec

DUMMY_EXPONENT = 121 << 7
"""In bfloat16's bits: random weights lie between 2^-6 and 2^-5, of either sign."""


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
