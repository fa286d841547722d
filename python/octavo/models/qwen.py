"""Qwen 2, 2.5 and 3 (dense)."""

from octavo.errors import ModelError
from octavo.models.config_reader import ConfigReader
from octavo.models.dense import dense_spec
from octavo.models.spec import DecoderSpec


def qwen2(config: ConfigReader) -> DecoderSpec:
    return dense_spec(config, qkv_bias=True, windows=_windows(config))


def qwen3(config: ConfigReader) -> DecoderSpec:
    bias = config.flag("attention_bias")
    return dense_spec(
        config, qkv_bias=bias, output_bias=bias, qk_norm=True, windows=_windows(config), default_head_dim=128
    )


def _windows(config: ConfigReader) -> tuple[int, ...]:
    """`layer_types` says which layers have a window; in older configs those from `max_window_layers` on."""
    layers = config.integer("num_hidden_layers")
    if not config.flag("use_sliding_window") or config.get("sliding_window") is None:
        return (0,) * layers
    window, first = config.integer("sliding_window"), int(config.get("max_window_layers", 28))
    default = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
    kinds = config.get("layer_types", default)
    known = {"sliding_attention": window, "full_attention": 0}
    if len(kinds) != layers or not set(kinds) <= known.keys():
        raise ModelError(
            f"layer_types in the model's config must name sliding_attention or full_attention {layers} times"
        )
    return tuple(known[kind] for kind in kinds)
