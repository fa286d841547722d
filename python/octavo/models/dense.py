"""What the Llama-shaped families share: sizes, defaults and the checks on a config."""

from octavo.errors import ModelError
from octavo.models.config_reader import ConfigReader
from octavo.models.rope import rope_spec
from octavo.models.spec import DecoderSpec


def dense_spec(
    config: ConfigReader,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    windows: tuple[int, ...] | None = None,
    default_kv_heads: int | None = None,
    default_head_dim: int | None = None,
) -> DecoderSpec:
    """Raises ModelError for sizes that contradict each other and for options that no executor has."""
    config.only("hidden_act", "silu")
    if config.get("quantization_config") is not None:
        method = config.mapping("quantization_config").get("quant_method", "unknown")
        raise ModelError(f"quantised checkpoints (quant_method {method!r}) are not supported in this version")
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    num_kv_heads = config.integer("num_key_value_heads", default_kv_heads or num_heads)
    num_layers = config.integer("num_hidden_layers")
    if num_heads % num_kv_heads:
        raise ModelError(f"{num_heads} attention heads cannot share {num_kv_heads} key-value heads evenly")
    if config.get("head_dim") is None and default_head_dim is None and hidden_size % num_heads:
        raise ModelError(f"hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}")
    head_dim = config.integer("head_dim", default_head_dim or hidden_size // num_heads)
    if head_dim % 2:
        raise ModelError(f"head_dim {head_dim} is odd; rotary embedding needs pairs")
    return DecoderSpec(
        architecture=config.get("architectures")[0],
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=config.integer("intermediate_size"),
        norm_eps=config.number("rms_norm_eps", 1e-6),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        windows=windows or (0,) * num_layers,
        activation="silu",
        attention_scale=head_dim**-0.5,
        rope=rope_spec(config, head_dim),
        tied_head=config.flag("tie_word_embeddings"),
    )
