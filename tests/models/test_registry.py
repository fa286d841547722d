"""Configs to specs: older spellings, defaults, and clear errors for what is not supported."""

from typing import Any

import pytest

from octavo.errors import ModelError
from octavo.models.registry import spec_for, supported_architectures
from octavo.models.rope import inverse_frequencies

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"]}


def test_defaults() -> None:
    spec = spec_for(LLAMA)
    assert (spec.num_kv_heads, spec.head_dim, spec.attention_scale) == (4, 16, 0.25)
    assert spec.windows == (0, 0)
    assert not spec.tied_head
    assert spec.rope.rotary_dim == 16
    assert inverse_frequencies(spec.rope)[0] == 1.0


@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_older_rope_spelling(key: str) -> None:
    scaled = spec_for({**LLAMA, "rope_theta": 5e5, "rope_scaling": {key: "linear", "factor": 4.0}})
    newer = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}
    assert scaled == spec_for({**LLAMA, "rope_parameters": newer})
    assert inverse_frequencies(scaled.rope)[0] == 0.25


def test_windows_of_qwen() -> None:
    windowed = {**QWEN2, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    assert spec_for(windowed).windows == (0, 8)
    assert spec_for({**windowed, "use_sliding_window": False}).windows == (0, 0)
    assert spec_for({**windowed, "layer_types": ["sliding_attention", "full_attention"]}).windows == (8, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM is not supported; supported: Bert"),
        ({"architectures": []}, "no architectures"),
        ({"architectures": None}, "no architectures"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quant_method 'gptq'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope type 'longrope' is not supported; supported: default"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        ({"rope_scaling": {"type": "linear"}}, "no factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "differ between layers"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"num_key_value_heads": 3}, "cannot share 3"),
        ({"hidden_size": 66}, "not a multiple"),
        ({"head_dim": 15}, "odd"),
        ({"vocab_size": None}, "no vocab_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers = -1"),
        ({"num_hidden_layers": True}, "num_hidden_layers = True"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
        ({"attention_bias": "yes"}, "attention_bias = 'yes'"),
        ({"rope_scaling": 3}, "rope_scaling = 3"),
    ],
)
def test_errors_name_the_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        spec_for({**LLAMA, **change})


def test_supported_architectures() -> None:
    decoders = [
        family + head
        for family in ("Llama", "Mistral", "Qwen2", "Qwen3")
        for head in ("ForCausalLM", "ForSequenceClassification", "Model")
    ]
    encoders = ["BertForMaskedLM", "BertForSequenceClassification", "BertModel"]
    assert supported_architectures() == sorted(decoders + encoders)
