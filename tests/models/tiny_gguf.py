"""Tiny GGUF models of every block type, beside Transformers' float32 model of exactly the numbers that they hold."""

from pathlib import Path
from typing import Any

import gguf
import torch
from gguf.constants import GGMLQuantizationType as Type
from gguf.quants import dequantize
from gguf_blocks import encode
from tiny import fill
from tiny_files import gguf_name, interleave
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SIZES: dict[str, Any] = {
    "vocab_size": 133,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
NARROW: dict[str, Any] = {
    "vocab_size": 47,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}
"""Of blocks of 32: neither columns nor rows are whole numbers of anything larger."""

BLOCKS = (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0)

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Type]]] = {
    **{
        kind.name: ("llama", SIZES, {"": kind})
        for kind in (Type.F16, Type.BF16, *BLOCKS, Type.Q4_K, Type.Q5_K, Type.Q6_K)
    },
    **{f"{kind.name}-narrow": ("llama", {**SIZES, **NARROW}, {"": kind}) for kind in (Type.F16, *BLOCKS)},
    "Q4_K_M": ("llama", SIZES, {"": Type.Q4_K, "v_proj": Type.Q6_K, "down_proj": Type.Q6_K, "lm_head": Type.Q6_K}),
    "Q5_K_M-qwen2": (
        "qwen2",
        {**SIZES, "tie_word_embeddings": True},
        {"": Type.Q5_K, "v_proj": Type.Q6_K, "down_proj": Type.Q6_K, "embed_tokens": Type.Q6_K},
    ),
    "Q4_1-tied-Q8_0": (
        "llama",
        {**SIZES, **NARROW, "tie_word_embeddings": True},
        {"": Type.Q4_1, "embed_tokens": Type.Q8_0},
    ),
    "Q4_0-qwen3": ("qwen3", {**SIZES, **NARROW, "head_dim": 32}, {"": Type.Q4_0, "embed_tokens": Type.Q8_0}),
    "mixed": (
        "llama",
        SIZES,
        {"": Type.Q5_1, "q_proj": Type.F16, "up_proj": Type.Q8_0, "embed_tokens": Type.F32},
    ),
}
"""Family, sizes, and the block type of each weight: that of the longest key which its name contains."""


def make_gguf(name: str, folder: Path, **changes: Any) -> tuple[Path, PreTrainedModel]:
    """(the file, Transformers' float32 model of the dequantised weights). `changes` to the case's sizes."""
    family, sizes, _ = CASES[name]
    config = AutoConfig.for_model(family, **{**sizes, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    fill(model)
    path = folder / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, family)
    _write_metadata(writer, family, config)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            stored_name = gguf_name(parameter_name)
            if parameter.dim() == 1:
                writer.add_tensor(stored_name, parameter.numpy())
                continue
            kind = kind_of(name, parameter_name)
            blocks = encode(parameter.numpy() * _unevenness(parameter), kind)
            parameter.copy_(torch.from_numpy(dequantize(blocks.copy(), kind).reshape(parameter.shape)))
            for part, count in heads.items():
                if family == "llama" and part in parameter_name:
                    blocks = interleave(blocks, count)
            writer.add_tensor(stored_name, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model


def kind_of(case: str, parameter_name: str) -> Type:
    kinds = CASES[case][2]
    return kinds[max((key for key in kinds if key in parameter_name), key=len)]


def _unevenness(parameter: torch.Tensor) -> Any:
    """Factors from 0.4 to 1.6, one for each 16 columns, so that neighbouring blocks have different scales."""
    generator = torch.Generator().manual_seed(4)
    factors = 0.4 + 1.2 * torch.rand(parameter.shape[0], parameter.shape[1] // 16, generator=generator)
    return factors.repeat_interleave(16, 1).numpy()


def _write_metadata(writer: gguf.GGUFWriter, family: str, config: Any) -> None:
    heads, hidden = config.num_attention_heads, config.hidden_size
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    numbers = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": hidden,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
    }
    for key, value in numbers.items():
        writer.add_uint32(f"{family}.{key}", value)
    writer.add_float32(f"{family}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_float32(f"{family}.rope.freq_base", config.rope_parameters["rope_theta"])
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", "gpt-2")
    writer.add_array(
        "tokenizer.ggml.tokens", ["t1", "0", "t10", *(f"x{number}" for number in range(config.vocab_size - 3))]
    )
    writer.add_array("tokenizer.ggml.token_type", [1] * config.vocab_size)
    writer.add_array("tokenizer.ggml.merges", ["t1 0"])
