"""Writes small checkpoint files for tests: GGUF through the `gguf` package's writer, safetensors through its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize
from numpy.typing import NDArray
from safetensors.numpy import save_file

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, VOCABULARY = 64, 96, 2, 4, 2, 11
HEAD_DIM = HIDDEN // HEADS
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 128,
    "vocab_size": VOCABULARY,
    "eos_token_id": 2,
}
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
TOKENIZER_JSON: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [{"id": 2, "content": "</s>", "special": True, **_FLAGS}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
}
TOKENS = ["a", "b", "ab", *(f"t{n}" for n in range(VOCABULARY - 4)), "</s>"]

Tensors = dict[str, NDArray[np.float32]]


def tensors(qk_norm: bool = False, bias: bool = False) -> Tensors:
    """Random weights under Hugging Face names."""
    random = np.random.default_rng(3)

    def matrix(*shape: int) -> NDArray[np.float32]:
        return random.standard_normal(shape).astype(np.float32)

    made = {
        "model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN),
        "model.norm.weight": matrix(HIDDEN),
        "lm_head.weight": matrix(VOCABULARY, HIDDEN),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        made[prefix + "input_layernorm.weight"] = matrix(HIDDEN)
        made[prefix + "post_attention_layernorm.weight"] = matrix(HIDDEN)
        for name, rows in (("q", HIDDEN), ("k", KV_HEADS * HEAD_DIM), ("v", KV_HEADS * HEAD_DIM)):
            made[f"{prefix}self_attn.{name}_proj.weight"] = matrix(rows, HIDDEN)
            if bias:
                made[f"{prefix}self_attn.{name}_proj.bias"] = matrix(rows)
            if qk_norm and name != "v":
                made[f"{prefix}self_attn.{name}_norm.weight"] = matrix(HEAD_DIM)
        made[prefix + "self_attn.o_proj.weight"] = matrix(HIDDEN, HIDDEN)
        made[prefix + "mlp.gate_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        made[prefix + "mlp.up_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        made[prefix + "mlp.down_proj.weight"] = matrix(HIDDEN, INTERMEDIATE)
    return made


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    for ours, theirs in _GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def interleave(rows: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """What llama.cpp's converter does to q and k of the llama architecture."""
    halves = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write_gguf(
    path: Path,
    weights: Tensors,
    *,
    architecture: str = "llama",
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    metadata: Mapping[str, Any] | None = None,
    extra: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """A complete GGUF model. `metadata` adds or (with None) removes keys; `extra` adds tensors under GGUF names."""
    keys: dict[str, Any] = {
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.context_length": 128,
        f"{architecture}.embedding_length": HIDDEN,
        f"{architecture}.feed_forward_length": INTERMEDIATE,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": KV_HEADS,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.rope.freq_base": 50000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [1] * (VOCABULARY - 1) + [3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": VOCABULARY - 1,
        "tokenizer.chat_template": "{{ messages[0].content }}",
        **(metadata or {}),
    }
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    for name, values in weights.items():
        stored: NDArray[Any] = values
        if architecture == "llama" and "q_proj" in name:
            stored = interleave(values, HEADS)
        elif architecture == "llama" and "k_proj" in name:
            stored = interleave(values, KV_HEADS)
        kind = quantisation if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        if kind not in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
            writer.add_tensor(gguf_name(name), quantize(stored, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), quantize(stored, kind))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_folder(folder: Path, weights: Tensors | None = None, **files: Any) -> Path:
    """A Hugging Face folder. Further files by name: `generation_config={...}`; None leaves a default one out."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"config": CONFIG, "tokenizer": TOKENIZER_JSON, **files}
    for name, value in contents.items():
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value))
    if weights is not None:
        save_file(weights, folder / "model.safetensors")
    return folder
