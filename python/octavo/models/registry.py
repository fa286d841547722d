"""Architecture names of Hugging Face configs, and the family function of each.

spec_for(config) -> DecoderSpec
supported_architectures()
ModelRegistry: the same by vLLM's name
"""

from collections.abc import Callable, Mapping
from typing import Any

from octavo.errors import ModelError
from octavo.models.config_reader import ConfigReader
from octavo.models.llama import llama, mistral
from octavo.models.qwen import qwen2, qwen3
from octavo.models.spec import DecoderSpec

FAMILIES: dict[str, Callable[[ConfigReader], DecoderSpec]] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
}


def supported_architectures() -> list[str]:
    return sorted(FAMILIES)


def spec_for(config: Mapping[str, Any]) -> DecoderSpec:
    """The spec of a Hugging Face style config. ModelError names what is not supported, and what is."""
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise ModelError("the model's config has no architectures; octavo cannot tell what the model is")
    for name in architectures:
        if name in FAMILIES:
            return FAMILIES[name](ConfigReader({**config, "architectures": [name]}))
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
