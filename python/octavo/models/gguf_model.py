"""A GGUF file as a Hugging Face checkpoint: metadata → config.json, tensor names, and rows in the order the model uses.

    gguf_config(file)   the config, for `general.architecture` llama (Mistral too), qwen2, qwen3
    GGUFWeights(file)   the tensors under Hugging Face names

llama.cpp stores q and k of the llama architecture with the two halves of every head interleaved, for its own rotary
kernel: `read` puts rows back, `stored` says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from octavo.errors import ModelError
from octavo.models.gguf import GGUFFile
from octavo.models.tensor import StoredTensor, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
}
_ROPE_FACTORS = "rope_freqs.weight"
_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""GGUF keeps only the resulting factors of Llama 3's rope; every published model of it has these numbers."""


class _Metadata:
    """Typed reads of the metadata, each with an error that names the key."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self._file = file
        self._architecture = architecture

    def find(self, key: str) -> Any:
        return self._file.metadata.get(f"{self._architecture}.{key}")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.find(key)
        value = default if value is None else value
        if type(value) is not int or value < 1:
            raise self._wrong(key, value, "a positive whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value: Any = self.find(key)
        value = default if value is None else value
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise self._wrong(key, value, "a positive number")
        return float(f"{value:.7g}")  # float32 in the file: 9.999999747e-06 was 1e-05 in the config it came from

    def _wrong(self, key: str, value: object, wanted: str) -> ModelError:
        found = "is missing" if value is None else f"is {value!r:.60}"
        return ModelError(f"{self._file.path}: metadata {self._architecture}.{key} {found}; {wanted} is needed")


def gguf_config(file: GGUFFile) -> dict[str, Any]:
    """A config.json for the file. ModelError for an architecture or option that octavo does not know."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise ModelError(f"{file.path}: GGUF architecture {architecture!r} is not supported; supported: {known}")
    if file.metadata.get("split.count", 0) not in (0, 1):
        raise ModelError(
            f"{file.path} is one part of a split GGUF file, which is not supported yet: join the parts first"
        )
    metadata = _Metadata(file, architecture)
    if metadata.find("expert_count"):
        raise ModelError(f"{file.path}: mixtures of experts in GGUF are not supported yet")
    class_name, model_type = _ARCHITECTURES[architecture]
    hidden_size, num_heads = metadata.integer("embedding_length"), metadata.integer("attention.head_count")
    head_dim = metadata.integer("attention.key_length", hidden_size // num_heads or 1)
    if metadata.integer("attention.value_length", head_dim) != head_dim:
        raise ModelError(f"{file.path}: values of another length than the keys are not supported")
    config: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": metadata.integer("feed_forward_length"),
        "num_hidden_layers": metadata.integer("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": metadata.integer("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.number("rope.freq_base", 10000.0),
        "max_position_embeddings": metadata.integer("context_length"),
        "vocab_size": _vocab_size(file),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
    }
    rotary_dim = metadata.integer("rope.dimension_count", head_dim)
    if rotary_dim != head_dim:
        config["partial_rotary_factor"] = rotary_dim / head_dim
    if (scaling := _rope_scaling(file, metadata, config)) is not None:
        config["rope_scaling"] = scaling
    for name in ("bos", "eos"):
        if (token := file.metadata.get(f"tokenizer.ggml.{name}_token_id")) is not None:
            config[f"{name}_token_id"] = token
    return config


def _vocab_size(file: GGUFFile) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{file.path} has no tensor token_embd.weight with rows: it carries no model")
    return embedding.shape[0]


def _rope_scaling(file: GGUFFile, metadata: _Metadata, config: dict[str, Any]) -> dict[str, Any] | None:
    if _ROPE_FACTORS in file.tensors:
        return _llama3_scaling(file, config)
    kind = metadata.find("rope.scaling.type")
    if kind is None and metadata.find("rope.scale_linear") is not None:
        return {"rope_type": "linear", "factor": metadata.number("rope.scale_linear")}
    if kind in (None, "none"):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": metadata.number("rope.scaling.factor")}
    if kind == "yarn":
        original = metadata.integer("rope.scaling.original_context_length", config["max_position_embeddings"])
        return {
            "rope_type": "yarn",
            "factor": metadata.number("rope.scaling.factor"),
            "original_max_position_embeddings": original,
        }
    raise ModelError(f"{file.path}: rope scaling {kind!r} in GGUF is not supported; supported: linear, yarn, llama3")


def _llama3_scaling(file: GGUFFile, config: dict[str, Any]) -> dict[str, Any]:
    """Llama 3's rope parameters, found again from the per-frequency factors that the file keeps."""
    import numpy as np  # not needed by most models: 50 ms

    head_dim, length = config["head_dim"], _LLAMA3_ROPE["original_max_position_embeddings"]
    low, high = _LLAMA3_ROPE["low_freq_factor"], _LLAMA3_ROPE["high_freq_factor"]
    stored = np.asarray(file.read(_ROPE_FACTORS), dtype=np.float64).ravel()
    largest = round(float(stored.max()), 4)
    frequencies = config["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
    kept = np.clip((length * frequencies / (2 * math.pi) - low) / (high - low), 0, 1)
    expected = 1 / ((1 - kept) / largest + kept)
    if stored.shape != expected.shape or not np.allclose(stored, expected, rtol=1e-3):
        raise ModelError(f"{file.path}: the factors in {_ROPE_FACTORS} are not those of Llama 3; not supported")
    return {"rope_type": "llama3", "factor": largest, **_LLAMA3_ROPE}


class GGUFWeights:
    """The tensors of a GGUF model under Hugging Face names; quantised ones come as float32."""

    def __init__(self, file: GGUFFile, config: dict[str, Any]) -> None:
        self._file = file
        self._names = {_hugging_face_name(name, file): name for name in file.tensors if name != _ROPE_FACTORS}
        self._interleaved_heads: dict[str, int] = {}
        if config["model_type"] == "llama":
            self._interleaved_heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}

    def tensors(self) -> Iterator[tuple[str, TensorInfo]]:
        for name, stored in self._names.items():
            tensor = self._file.tensors[stored]
            yield name, TensorInfo(tensor.shape, tensor.type.name, tensor.nbytes)

    def read(self, name: str) -> NDArray[Any]:
        """Interleaved rows of each head, (x0 y0 x1 y1 …), come back as (x0 x1 … y0 y1 …)."""
        values, head = self._file.read(self._names[name]), self._interleaved_head(name)
        if head == 0:
            return values
        pairs = values.reshape(values.shape[0] // head, head // 2, 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)

    def stored(self, name: str) -> StoredTensor:
        tensor, rows = self._file.tensors[self._names[name]], self._file.rows(self._names[name])
        return StoredTensor(rows, rows.shape[0], tensor.type.name, self._interleaved_head(name))

    def _interleaved_head(self, name: str) -> int:
        """Rows of one head where they are interleaved, else 0."""
        stored = self._names[name]
        match = _LAYER_TENSOR.fullmatch(stored)
        num_heads = self._interleaved_heads.get(match[2]) if match else None
        if num_heads is None:
            return 0
        rows = self._file.tensors[stored].shape[0]
        if rows % (2 * num_heads):
            raise ModelError(f"{self._file.path}: {rows} rows of {name} do not fit {num_heads} heads")
        return rows // num_heads


def _hugging_face_name(name: str, file: GGUFFile) -> str:
    if name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[name]
    match = _LAYER_TENSOR.fullmatch(name)
    if match is None or match[2] not in _LAYER_NAMES:
        raise ModelError(f"{file.path}: octavo has no place for the tensor {name!r} in this architecture")
    return f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.{match[3]}"
