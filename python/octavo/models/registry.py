"""Architecture names of Hugging Face configs: the family function of each, and what its head is for.

spec_for(config) -> DecoderSpec            of a model with a causal decoder, whatever its head
encoder_for(config) -> EncoderSpec | None
head_of(config) -> Head
supported_architectures()
ModelRegistry: the same by vLLM's name
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from octavo.errors import ModelError
from octavo.models.bert import bert
from octavo.models.config_reader import ConfigReader
from octavo.models.llama import llama, mistral
from octavo.models.qwen import qwen2, qwen3
from octavo.models.spec import DecoderSpec, EncoderSpec

Head = Literal["text", "none", "labels"]
"""What stands on a model's last layer: a head for text, nothing, or a classifier."""

FAMILIES: dict[str, Callable[[ConfigReader], DecoderSpec]] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
}
ENCODERS: dict[str, Callable[[ConfigReader], EncoderSpec]] = {"BertModel": bert}

DECODER_HEADS: dict[str, Head] = {"Model": "none", "ForSequenceClassification": "labels"}
ENCODER_HEADS: dict[str, Head] = {"ForMaskedLM": "none", "ForSequenceClassification": "labels"}
"""What stands in the place of the names' usual ends."""


def supported_architectures() -> list[str]:
    others = [
        name.removesuffix(end) + suffix
        for families, end, heads in ((FAMILIES, "ForCausalLM", DECODER_HEADS), (ENCODERS, "Model", ENCODER_HEADS))
        for name in families
        for suffix in heads
    ]
    return sorted([*FAMILIES, *ENCODERS, *others])


def spec_for(config: Mapping[str, Any]) -> DecoderSpec:
    """The spec of a Hugging Face style config. ModelError names what is not supported, and what is."""
    name, family, _ = _find(config)
    if family not in FAMILIES:
        raise ModelError(f"{name} is an encoder: it generates no text")
    return FAMILIES[family](ConfigReader({**config, "architectures": [name]}))


def encoder_for(config: Mapping[str, Any]) -> EncoderSpec | None:
    """None for a decoder; else as `spec_for`."""
    name, family, _ = _find(config)
    return ENCODERS[family](ConfigReader({**config, "architectures": [name]})) if family in ENCODERS else None


def head_of(config: Mapping[str, Any]) -> Head:
    """What the model's head is for. ModelError as `spec_for`."""
    return _find(config)[2]


def _find(config: Mapping[str, Any]) -> tuple[str, str, Head]:
    """The first architecture that is known, its family, and its head."""
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise ModelError("the model's config has no architectures; octavo cannot tell what the model is")
    for name in map(str, architectures):
        if name in FAMILIES:
            return name, name, "text"
        if name in ENCODERS:
            return name, name, "none"
        for suffix, head in DECODER_HEADS.items():
            family = name.removesuffix(suffix) + "ForCausalLM"
            if name.endswith(suffix) and family in FAMILIES:
                return name, family, head
        for suffix, head in ENCODER_HEADS.items():
            family = name.removesuffix(suffix) + "Model"
            if name.endswith(suffix) and family in ENCODERS:
                return name, family, head
    supported = ", ".join(supported_architectures())
    raise ModelError(f"architecture {', '.join(map(str, architectures))} is not supported; supported: {supported}")


class ModelRegistry:
    """vLLM's name for what there is here. A model is data in octavo: no class, but a function from config to spec."""

    @staticmethod
    def get_supported_archs() -> list[str]:
        return supported_architectures()

    @staticmethod
    def register_model(model_arch: str, family: Callable[[ConfigReader], DecoderSpec]) -> None:
        """Has models whose config names this architecture run as what `family` makes of the config.

        Of this process only: for `LLM` and `LLMEngine`. TypeError for vLLM's model classes, which need vLLM.
        """
        if isinstance(family, type) or not callable(family):
            raise TypeError(f"register_model: {model_arch}: octavo takes a function from a config to a DecoderSpec")
        FAMILIES[model_arch] = family
