"""Architecture names of Hugging Face configs, and the family function of each.

spec_for(config) -> DecoderSpec
supported_architectures()
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
