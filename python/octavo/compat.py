"""`install_as_vllm()`: has `from vllm import LLM, SamplingParams` give octavo's, in this process.

    import octavo.compat; octavo.compat.install_as_vllm()      at the top of a script, or in sitecustomize.py

It puts modules called `vllm` into sys.modules; nothing of that name is installed. NAMES says which, and what is in
them; a name is imported when it is first used. What only exists to be imported is in compat_names.py.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ENGINE_ARGS = dict.fromkeys(("EngineArgs", "AsyncEngineArgs"), "octavo.engine_args")
INPUTS = {"TextPrompt": "octavo.inputs", "TokensPrompt": "octavo.inputs", "PromptType": "octavo.inputs:Prompt"}
REGISTRY = {"ModelRegistry": "octavo.models.registry"}
SAMPLING = dict.fromkeys(("SamplingParams", "RequestOutputKind", "RepetitionDetectionParams"), "octavo.sampling")
STRUCTURED = dict.fromkeys(("StructuredOutputsParams", "GuidedDecodingParams"), "octavo.structured")
OUTPUTS = dict.fromkeys(
    (
        "RequestOutput",
        "CompletionOutput",
        "PoolingOutput",
        "PoolingRequestOutput",
        "EmbeddingOutput",
        "EmbeddingRequestOutput",
        "ClassificationOutput",
        "ClassificationRequestOutput",
        "ScoringOutput",
        "ScoringRequestOutput",
    ),
    "octavo.outputs",
)
POOLING = {"PoolingParams": "octavo.pooling"}
ASYNC = {"AsyncLLM": "octavo.async_llm", "AsyncLLMEngine": "octavo.async_llm"}
METRICS = dict.fromkeys(("Counter", "Gauge", "Histogram", "Metric", "Vector"), "octavo.metrics_reader")
PARSER = {"FlexibleArgumentParser": "octavo.compat_names"}

BEAMS = dict.fromkeys(("BeamSearchOutput", "BeamSearchSequence"), "octavo.beams")

NAMES: dict[str, dict[str, str]] = {
    "vllm": {
        "LLM": "octavo.llm",
        "LLMEngine": "octavo.llm_engine",
        "AsyncLLMEngine": "octavo.async_llm",
        "SamplingParams": "octavo.sampling",
        "TextPrompt": "octavo.inputs",
        "TokensPrompt": "octavo.inputs",
        "__version__": "octavo._core",
        "BeamSearchParams": "octavo.beams",
        **ENGINE_ARGS,
        **OUTPUTS,
        **POOLING,
        **REGISTRY,
    },
    "vllm.beam_search": BEAMS,
    "vllm.engine": {},
    "vllm.engine.arg_utils": ENGINE_ARGS,
    "vllm.engine.async_llm_engine": {**ASYNC, "AsyncEngineDeadError": "octavo.errors:EngineDeadError"},
    "vllm.engine.llm_engine": {"LLMEngine": "octavo.llm_engine"},
    "vllm.entrypoints": {},
    "vllm.entrypoints.llm": {"LLM": "octavo.llm"},
    "vllm.inputs": INPUTS,
    "vllm.inputs.data": INPUTS,
    "vllm.logger": {"init_logger": "octavo.compat_names"},
    "vllm.lora": {},
    "vllm.lora.request": {"LoRARequest": "octavo.compat_names"},
    "vllm.model_executor": {},
    "vllm.model_executor.models": REGISTRY,
    "vllm.model_executor.models.registry": REGISTRY,
    "vllm.outputs": OUTPUTS,
    "vllm.pooling_params": POOLING,
    "vllm.sampling_params": {**SAMPLING, **STRUCTURED, "BeamSearchParams": "octavo.beams"},
    "vllm.usage": {},
    "vllm.usage.usage_lib": {"UsageContext": "octavo.compat_names"},
    "vllm.utils": {"random_uuid": "octavo.compat_names", **PARSER},
    "vllm.utils.argparse_utils": PARSER,
    "vllm.v1": {},
    "vllm.v1.engine": {},
    "vllm.v1.engine.async_llm": ASYNC,
    "vllm.v1.engine.exceptions": {"EngineDeadError": "octavo.errors"},
    "vllm.v1.engine.llm_engine": {"LLMEngine": "octavo.llm_engine"},
    "vllm.v1.metrics": {},
    "vllm.v1.metrics.reader": dict.fromkeys(
        ("Counter", "Gauge", "Histogram", "Metric", "Vector"), "octavo.metrics_reader"
    ),
}
"""Module → its names → where octavo has them: a module, or `module:name` where it is called differently."""


class _Module(ModuleType):
    """One of vllm's modules. It has no files, so what NAMES lacks is an ImportError as ever."""

    def __init__(self, name: str, names: dict[str, str]) -> None:
        super().__init__(name, "octavo by the name of vllm (octavo.compat).")
        self.__spec__ = ModuleSpec(name, None, is_package=True)
        self.__path__: list[str] = []
        self.__all__ = list(names)
        self._places = names

    def __getattr__(self, name: str) -> Any:
        if name not in self._places:
            raise AttributeError(f"octavo has no {self.__name__}.{name}")
        module, _, other = self._places[name].partition(":")
        value = getattr(import_module(module), other or name)
        setattr(self, name, value)
        return value


def install_as_vllm() -> None:
    """Call it before anything imports vllm: RuntimeError when something has. A second call does nothing."""
    present = sys.modules.get("vllm")
    if isinstance(present, _Module):
        return
    if present is not None:
        raise RuntimeError("vllm itself is imported already; call install_as_vllm() before anything imports it")
    for name, names in NAMES.items():
        module = sys.modules[name] = _Module(name, names)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
