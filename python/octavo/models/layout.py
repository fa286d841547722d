"""Every array that a decoder owns, from its spec alone: fused parameters with their sources, and a step's activations.

    parameters(spec)                     what the loader allocates and fills, from which checkpoint tensors
    parameter_bytes, workspace_bytes     for the memory plan; with device_ before their names, those of a GPU

No torch here.
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

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) == 2


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
    """What the torch executor's parameters take."""
    return sum(
        math.prod(parameter.shape) * ITEM_BYTES["float32" if parameter.is_norm else dtype]
        for parameter in parameters(spec)
    )


def workspace_bytes(spec: DecoderSpec, *, max_tokens: int, max_samples: int, max_model_len: int, dtype: Dtype) -> int:
    """What the torch executor's step of max_tokens tokens with max_samples logits holds, and the rotary table.

    Activations are float32; a product with smaller weights also has its input and output in their dtype. Counts one
    layer's attention and MLP buffers together, as an allocator that does not give memory back would keep them.
    """
    qkv = spec.query_size + 2 * spec.kv_size
    stream = 2 * spec.hidden_size
    attention = 2 * qkv + spec.query_size + spec.hidden_size
    mlp = 3 * spec.intermediate_size + spec.hidden_size
    a_token = 4 * (stream + attention + mlp)
    a_sample = 4 * (spec.hidden_size + spec.vocab_size)
    if dtype != "float32":
        a_token += ITEM_BYTES[dtype] * (max(spec.hidden_size, spec.query_size) + 3 * spec.intermediate_size)
        a_sample += ITEM_BYTES[dtype] * (spec.hidden_size + spec.vocab_size)
    return max_tokens * a_token + max_samples * a_sample + 4 * max_model_len * spec.rope.rotary_dim


def device_parameter_bytes(spec: DecoderSpec) -> int:
    """What the parameters take on a GPU: all 16-bit."""
    return sum(2 * math.prod(parameter.shape) for parameter in parameters(spec))


def device_workspace_bytes(spec: DecoderSpec, *, max_tokens: int, max_samples: int, max_model_len: int) -> int:
    """What a step holds on a GPU, the rotary table, and which tokens each row has had.

    Activations are 16-bit, the residual stream and logits float32. Counts all buffers of a layer as alive at once, as
    an allocator keeps them, and those of captured steps apart. Of a token that a row has had there is a count of
    16 bits, and a bit.
    """
    qkv = spec.query_size + 2 * spec.kv_size
    halves = 3 * spec.hidden_size + qkv + spec.query_size + 3 * spec.intermediate_size
    a_token = 4 * spec.hidden_size + 2 * halves
    captured_tokens = min(max_samples, 512)
    history = 2 * spec.vocab_size + 4 * math.ceil(spec.vocab_size / 32)
    a_sample = 2 * spec.hidden_size + 4 * spec.vocab_size + history
    return (max_tokens + captured_tokens) * a_token + max_samples * a_sample + 4 * max_model_len * spec.rope.rotary_dim


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
