"""Llama 1 to 3.x, SmolLM2, Yi and Mistral."""

from octavo.models.config_reader import ConfigReader
from octavo.models.dense import dense_spec
from octavo.models.spec import DecoderSpec


def llama(config: ConfigReader) -> DecoderSpec:
    bias = config.flag("attention_bias")
    return dense_spec(config, qkv_bias=bias, output_bias=bias, mlp_bias=config.flag("mlp_bias"))


def mistral(config: ConfigReader) -> DecoderSpec:
    """Every layer has the same window, if any."""
    window = 0 if config.get("sliding_window") is None else config.integer("sliding_window")
    return dense_spec(config, windows=(window,) * config.integer("num_hidden_layers"), default_kv_heads=8)
