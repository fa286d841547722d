"""Weights for the native models; how they keep them stands in `native_format`.

    load_native(decoder, spec, checkpoint, …)   reads; `loading` is strict about names and shapes
    load_pooling(model, layout, checkpoint, …)  the same for a model that pools
    random_native(model, parameters, …)         --load-format dummy

Matrices go to Rust as the bytes of the mapped file, which it packs in parallel; Python copies none.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from octavo._core import NativeDecoder, NativeEncoder
from octavo.config import ModelConfig
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, TensorInfo
from octavo.models.layout import Parameter, parameters
from octavo.models.loading import Progress, check_layout, check_tensors
from octavo.models.native_format import matrix_format
from octavo.models.pooled_layout import Layout
from octavo.models.spec import DecoderSpec

DUMMY_EXPONENT = 121 << 7
"""In bfloat16's bits: random weights lie between 2^-6 and 2^-5, of either sign."""


def load_native(decoder: NativeDecoder, spec: DecoderSpec, checkpoint: Checkpoint, model: ModelConfig) -> None:
    """Fills every parameter, with a progress bar of bytes on stderr. ModelError names the tensor that is wrong."""
    _load(decoder, parameters(spec), check_tensors(spec, checkpoint), checkpoint, model)


def load_pooling(
    native: NativeDecoder | NativeEncoder, layout: Layout, checkpoint: Checkpoint, model: ModelConfig
) -> None:
    """As `load_native`."""
    _load(native, layout.parameters, check_layout(layout, checkpoint), checkpoint, model)


def _load(
    native: NativeDecoder | NativeEncoder,
    found: Sequence[Parameter],
    tensors: dict[str, TensorInfo],
    checkpoint: Checkpoint,
    model: ModelConfig,
) -> None:
    with Progress(tensors, checkpoint) as progress:
        for parameter in found:
            try:
                if parameter.is_matrix:
                    stored = [checkpoint.stored(source) for source, _ in parameter.sources]
                    parts = [(each.data, each.rows, each.encoding, each.interleaved_head) for each in stored]
                    native.load_matrix(parameter.name, parts, matrix_format(model, parameter.name))
                else:
                    vectors = [_vector(checkpoint, source, tensors[source]) for source, _ in parameter.sources]
                    native.load_vector(parameter.name, np.concatenate(vectors))
            except ValueError as error:
                raise ModelError(f"{parameter.sources[0][0]}: {error}") from None
            for source, _ in parameter.sources:
                progress.loaded(source)
    native.finish()


def random_native(
    native: NativeDecoder | NativeEncoder, found: Sequence[Parameter], model: ModelConfig, kind: str
) -> None:
    """Weights of the usual size, kept as `kind` unless the options say more; equal for equal seeds. Norms are 1."""
    generator = np.random.default_rng(model.seed)
    for parameter in found:
        if parameter.is_norm:
            native.load_vector(parameter.name, np.ones(parameter.shape, dtype=np.float32))
        elif not parameter.is_matrix:
            native.load_vector(parameter.name, np.zeros(parameter.shape, dtype=np.float32))
        else:
            columns = parameter.shape[1]
            parts = [(_random_bits(generator, rows, columns), rows, "BF16", 0) for _, rows in parameter.sources]
            native.load_matrix(parameter.name, parts, matrix_format(model, parameter.name) or kind)
    native.finish()


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
