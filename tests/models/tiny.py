"""Tiny random models of every supported family, made and saved by Transformers."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}

CASES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-no-gqa": {"model_type": "llama", "num_key_value_heads": 4, "rms_norm_eps": 1e-3},
    "llama-bias": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-head-dim": {"model_type": "llama", "head_dim": 32},
    "llama-rope-linear": {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
    "llama-rope-llama3": {
        "model_type": "llama",
        "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16, "rope_theta": 5e5},
    },
    "llama-rope-yarn": {"model_type": "llama", "rope_parameters": YARN},
    "llama-rope-yarn-mscale": {
        "model_type": "llama",
        "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3, "beta_fast": 16.0, "truncate": False},
    },
    "mistral-window": {"model_type": "mistral", "sliding_window": 7},
    "mistral-whole": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen2-window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "qwen3-bias": {"model_type": "qwen3", "head_dim": 16, "attention_bias": True, "tie_word_embeddings": True},
    "llama-odd": {
        "model_type": "llama",
        "hidden_size": 51,
        "intermediate_size": 45,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 24,
        "vocab_size": 133,
    },
    "llama-odd-tied": {
        "model_type": "llama",
        "hidden_size": 36,
        "intermediate_size": 131,
        "num_attention_heads": 6,
        "head_dim": 40,
        "vocab_size": 145,
        "tie_word_embeddings": True,
        "attention_bias": True,
    },
    "mistral-head-dim-8": {"model_type": "mistral", "hidden_size": 40, "head_dim": 8, "sliding_window": 5},
    "qwen2-one-kv-head": {
        "model_type": "qwen2",
        "hidden_size": 98,
        "head_dim": 16,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
    },
    "qwen3-head-dim-80": {"model_type": "qwen3", "head_dim": 80, "hidden_size": 97},
    "qwen3-head-dim-128": {"model_type": "qwen3", "head_dim": 128, "num_hidden_layers": 2},
    "llama-head-dim-256": {
        "model_type": "llama",
        "head_dim": 256,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 2,
    },
    "llama-smallest": {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 1,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": 33,
    },
}


def make(name: str, folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """The float32 model of weights that `dtype` holds exactly, saved in `dtype`, with a tokenizer beside it.

    `changes` to the case's sizes.
    """
    options = {**SIZES, **CASES[name], **changes}
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    fill(model, dtype)
    # The copy alone is converted: the rotary frequencies of the returned model stay float32.
    copy.deepcopy(model).to(dtype).save_pretrained(folder)
    write_tokenizer(folder, config.vocab_size)
    return model


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """One token a word: t0, t1, …"""
    words = {f"t{number}": number for number in range(vocab_size)}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "t0"}
    data = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(data))


def fill(model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> None:
    """Random weights which `dtype` holds exactly; large, so that attention matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                scale = 1.0 if "embed" in parameter_name else 1.3 * parameter.shape[-1] ** -0.5
                parameter.copy_(noise * scale)
            else:
                parameter.copy_(0.2 * noise + (1.0 if "norm" in parameter_name else 0.0))
            parameter.copy_(parameter.to(dtype))
