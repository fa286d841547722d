"""Every array a decoder owns, from its spec alone: fused parameters with their sources, and the step's workspace.

    parameters(spec)           what the loader fills, from which checkpoint tensors
    workspace(spec, limits)    the buffers of one step
    parameter_bytes, workspace_bytes

The loader and the executor allocate exactly these, so the memory plan made from them is exact. No torch here.
"""

import math
from dataclasses import dataclass
from typing import Literal

from octavo.models.spec import DecoderSpec

Dtype = Literal["float32", "float16", "bfloat16"]
ITEM_BYTES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One array of the decoder: its sources lie one after another along the first dimension."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[tuple[str, int], ...]
    """(name in the checkpoint, rows)."""
    is_norm: bool = False
    """Norm weights stay float32 whatever the model's dtype: the norm kernels read float32."""


def parameters(spec: DecoderSpec) -> list[Parameter]:
    """In the order of a forward pass, so that a streaming load reads the file about once from front to back."""
    hidden, query, kv, inner = spec.hidden_size, spec.query_size, spec.kv_size, spec.intermediate_size
    found = [_matrix("embedding", hidden, [("model.embed_tokens", spec.vocab_size)])]
    for layer in range(spec.num_layers):
        ours, theirs = f"layers.{layer}", f"model.layers.{layer}"
        attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        qkv = [(f"{attention}.q_proj", query), (f"{attention}.k_proj", kv), (f"{attention}.v_proj", kv)]
        gate_up = [(f"{mlp}.gate_proj", inner), (f"{mlp}.up_proj", inner)]
        found.append(_norm(f"{ours}.attention_norm", f"{theirs}.input_layernorm", hidden))
        found += _linear(f"{ours}.qkv", hidden, qkv, spec.qkv_bias)
        if spec.qk_norm:
            found.append(_norm(f"{ours}.query_norm", f"{attention}.q_norm", spec.head_dim))
            found.append(_norm(f"{ours}.key_norm", f"{attention}.k_norm", spec.head_dim))
        found += _linear(f"{ours}.output", query, [(f"{attention}.o_proj", hidden)], spec.output_bias)
        found.append(_norm(f"{ours}.mlp_norm", f"{theirs}.post_attention_layernorm", hidden))
        found += _linear(f"{ours}.gate_up", hidden, gate_up, spec.mlp_bias)
        found += _linear(f"{ours}.down", inner, [(f"{mlp}.down_proj", hidden)], spec.mlp_bias)
    found.append(_norm("final_norm", "model.norm", hidden))
    if not spec.tied_head:
        found.append(_matrix("head", hidden, [("lm_head", spec.vocab_size)]))
    return found


def parameter_bytes(spec: DecoderSpec, dtype: Dtype) -> int:
    return sum(
        math.prod(parameter.shape) * ITEM_BYTES["float32" if parameter.is_norm else dtype]
        for parameter in parameters(spec)
    )


def workspace(
    spec: DecoderSpec, *, max_tokens: int, max_samples: int, dtype: Dtype
) -> dict[str, tuple[tuple[int, int], Dtype]]:
    """Name to (shape, element type) of the step's buffers, T = max_tokens and S = max_samples rows.

    Activations are float32. With smaller weights two more hold a product's input and output in their dtype.
    """
    qkv = spec.query_size + 2 * spec.kv_size
    widths = {
        "residual": spec.hidden_size,
        "normed": spec.hidden_size,
        "qkv": qkv,
        "query": spec.query_size,
        "key": spec.kv_size,
        "value": spec.kv_size,
        "attended": spec.query_size,
        "gate_up": 2 * spec.intermediate_size,
        "activated": spec.intermediate_size,
    }
    buffers: dict[str, tuple[tuple[int, int], Dtype]] = {
        name: ((max_tokens, width), "float32") for name, width in widths.items()
    }
    buffers["sampled"] = ((max_samples, spec.hidden_size), "float32")
    buffers["logits"] = ((max_samples, spec.vocab_size), "float32")
    if dtype != "float32":
        widest_in = max(spec.hidden_size, spec.query_size, spec.intermediate_size)
        widest_out = max(qkv, spec.hidden_size, 2 * spec.intermediate_size)
        buffers["cast_in"] = ((max(max_tokens, max_samples), widest_in), dtype)
        buffers["cast_out"] = ((max_tokens, widest_out), dtype)
        buffers["cast_logits"] = ((max_samples, spec.vocab_size), dtype)
    return buffers


def workspace_bytes(spec: DecoderSpec, *, max_tokens: int, max_samples: int, dtype: Dtype) -> int:
    buffers = workspace(spec, max_tokens=max_tokens, max_samples=max_samples, dtype=dtype)
    return sum(math.prod(shape) * ITEM_BYTES[kind] for shape, kind in buffers.values())


def _norm(name: str, source: str, size: int) -> Parameter:
    return Parameter(name, (size,), ((f"{source}.weight", size),), is_norm=True)


def _matrix(name: str, columns: int, sources: list[tuple[str, int]]) -> Parameter:
    rows = sum(count for _, count in sources)
    return Parameter(name, (rows, columns), tuple((f"{source}.weight", count) for source, count in sources))


def _linear(name: str, columns: int, sources: list[tuple[str, int]], bias: bool) -> list[Parameter]:
    weight = _matrix(name, columns, sources)
    if not bias:
        return [weight]
    biases = tuple((f"{source}.bias", count) for source, count in sources)
    return [weight, Parameter(f"{name}.bias", (weight.shape[0],), biases)]
