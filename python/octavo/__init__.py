"""octavo serves large language models.

`LLM` answers from Python, `AsyncLLM` inside an event loop; `octavo serve` answers over HTTP. Names are imported when
first used: importing octavo loads neither torch nor aiohttp.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo._core import __version__
    from octavo.async_llm import AsyncLLM, AsyncLLMEngine
    from octavo.beams import BeamSearchOutput, BeamSearchParams, BeamSearchSequence
    from octavo.engine_args import AsyncEngineArgs, EngineArgs
    from octavo.errors import EngineDeadError
    from octavo.inputs import TextPrompt, TokensPrompt
    from octavo.llm import LLM
    from octavo.llm_engine import LLMEngine
    from octavo.models.registry import ModelRegistry
    from octavo.outputs import (
        ClassificationRequestOutput,
        CompletionOutput,
        EmbeddingRequestOutput,
        PoolingRequestOutput,
        RequestOutput,
        ScoringRequestOutput,
    )
    from octavo.pooling import PoolingParams
    from octavo.sampling import RequestOutputKind, SamplingParams
    from octavo.structured import GuidedDecodingParams, StructuredOutputsParams

_MODULES = {
    "LLM": "octavo.llm",
    "LLMEngine": "octavo.llm_engine",
    "AsyncLLM": "octavo.async_llm",
    "AsyncLLMEngine": "octavo.async_llm",
    "BeamSearchOutput": "octavo.beams",
    "BeamSearchParams": "octavo.beams",
    "BeamSearchSequence": "octavo.beams",
    "EngineArgs": "octavo.engine_args",
    "AsyncEngineArgs": "octavo.engine_args",
    "EngineDeadError": "octavo.errors",
    "ModelRegistry": "octavo.models.registry",
    "TextPrompt": "octavo.inputs",
    "TokensPrompt": "octavo.inputs",
    "CompletionOutput": "octavo.outputs",
    "RequestOutput": "octavo.outputs",
    "PoolingParams": "octavo.pooling",
    "ScoringRequestOutput": "octavo.outputs",
    "PoolingRequestOutput": "octavo.outputs",
    "EmbeddingRequestOutput": "octavo.outputs",
    "ClassificationRequestOutput": "octavo.outputs",
    "RequestOutputKind": "octavo.sampling",
    "SamplingParams": "octavo.sampling",
    "StructuredOutputsParams": "octavo.structured",
    "GuidedDecodingParams": "octavo.structured",
    "__version__": "octavo._core",
}

__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "AsyncLLMEngine",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "EngineArgs",
    "EngineDeadError",
    "GuidedDecodingParams",
    "LLMEngine",
    "ModelRegistry",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "ScoringRequestOutput",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
