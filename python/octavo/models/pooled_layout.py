"""The arrays of a model that pools, and what its checkpoint may have besides: `layout` for encoders, and for decoders
with another head.

    pooled_layout(spec, pooler, names) -> Layout

A checkpoint of a bare model has the names of one with a head, without their first word.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from octavo.models.layout import Parameter, parameters
from octavo.models.spec import DecoderSpec, EncoderSpec, PoolerSpec

ENCODER_SURPLUS = re.compile(r"(bert\.)?(embeddings\.position_ids|pooler\..*)|cls\..*")
"""A counted buffer, BERT's pooler where no classifier reads it, and the heads of its training."""

DECODER_SURPLUS = re.compile(r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)|lm_head\.weight")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a loader fills."""

    architecture: str
    parameters: tuple[Parameter, ...]
    surplus: re.Pattern[str]
    """Tensors that a checkpoint may have although nothing uses them."""


def pooled_layout(spec: DecoderSpec | EncoderSpec, pooler: PoolerSpec, names: Collection[str]) -> Layout:
    """`names`: those of the checkpoint's tensors; none for random weights."""
    if isinstance(spec, EncoderSpec):
        prefix = "bert." if any(name.startswith("bert.") for name in names) else ""
        return Layout(spec.architecture, tuple(_encoder(spec, pooler, prefix)), ENCODER_SURPLUS)
    found = parameters(replace(spec, tied_head=True))
    if names and not any(name.startswith("model.") for name in names):
        found = [_without_model(parameter) for parameter in found]
    if pooler.num_labels:
        shape = (pooler.num_labels, spec.hidden_size)
        found.append(Parameter("classifier", shape, (("score.weight", pooler.num_labels),)))
    return Layout(spec.architecture, tuple(found), DECODER_SURPLUS)


def _without_model(parameter: Parameter) -> Parameter:
    sources = tuple((name.removeprefix("model."), rows) for name, rows in parameter.sources)
    return replace(parameter, sources=sources)


def _encoder(spec: EncoderSpec, pooler: PoolerSpec, prefix: str) -> list[Parameter]:
    hidden, inner = spec.hidden_size, spec.intermediate_size
    embeddings = f"{prefix}embeddings"
    found = [
        _matrix("embedding", hidden, [(f"{embeddings}.word_embeddings", spec.vocab_size)]),
        _matrix("positions", hidden, [(f"{embeddings}.position_embeddings", spec.max_positions)]),
    ]
    if spec.num_types:
        found.append(_matrix("types", hidden, [(f"{embeddings}.token_type_embeddings", spec.num_types)]))
    found += _norm("embedding_norm", f"{embeddings}.LayerNorm", hidden)
    for layer in range(spec.num_layers):
        ours, theirs = f"layers.{layer}", f"{prefix}encoder.layer.{layer}"
        qkv = [(f"{theirs}.attention.self.{name}", hidden) for name in ("query", "key", "value")]
        found += _linear(f"{ours}.qkv", hidden, qkv)
        found += _linear(f"{ours}.output", hidden, [(f"{theirs}.attention.output.dense", hidden)])
        found += _norm(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm", hidden)
        found += _linear(f"{ours}.up", hidden, [(f"{theirs}.intermediate.dense", inner)])
        found += _linear(f"{ours}.down", inner, [(f"{theirs}.output.dense", hidden)])
        found += _norm(f"{ours}.mlp_norm", f"{theirs}.output.LayerNorm", hidden)
    if pooler.dense:
        found += _linear("pooler", hidden, [(f"{prefix}pooler.dense", hidden)])
    if pooler.num_labels:
        found += _linear("classifier", hidden, [("classifier", pooler.num_labels)])
    return found


def _matrix(name: str, columns: int, sources: list[tuple[str, int]]) -> Parameter:
    rows = sum(count for _, count in sources)
    return Parameter(name, (rows, columns), tuple((f"{source}.weight", count) for source, count in sources))


def _linear(name: str, columns: int, sources: list[tuple[str, int]]) -> list[Parameter]:
    weight = _matrix(name, columns, sources)
    biases = tuple((f"{source}.bias", count) for source, count in sources)
    return [weight, Parameter(f"{name}.bias", (weight.shape[0],), biases)]


def _norm(name: str, source: str, size: int) -> list[Parameter]:
    return [
        Parameter(name, (size,), ((f"{source}.weight", size),), is_norm=True),
        Parameter(f"{name}.bias", (size,), ((f"{source}.bias", size),)),
    ]
