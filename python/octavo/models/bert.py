"""BERT, and what has its layers: MiniLM, BGE, E5, and cross-encoders."""

from octavo.errors import ModelError
from octavo.models.config_reader import ConfigReader
from octavo.models.spec import EncoderSpec


def bert(config: ConfigReader) -> EncoderSpec:
    """Raises ModelError for options that the encoder does not have."""
    config.only("hidden_act", "gelu")
    config.only("position_embedding_type", "absolute")
    config.only("is_decoder", False)
    if config.get("quantization_config") is not None:
        raise ModelError("quantised checkpoints of encoders are not supported in this version")
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if hidden_size % num_heads:
        raise ModelError(f"hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}")
    return EncoderSpec(
        architecture=config.get("architectures")[0],
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        num_layers=config.integer("num_hidden_layers"),
        num_heads=num_heads,
        intermediate_size=config.integer("intermediate_size"),
        max_positions=config.integer("max_position_embeddings"),
        num_types=config.integer("type_vocab_size", 2),
        norm_eps=config.number("layer_norm_eps", 1e-12),
    )
