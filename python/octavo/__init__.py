"""octavo serves large language models.

`LLM` answers from Python; `octavo serve` answers over HTTP. Names are imported when first used: importing octavo loads
neither torch nor aiohttp.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo._core import __version__
    from octavo.inputs import TextPrompt, TokensPrompt
    from octavo.llm import LLM
    from octavo.outputs import CompletionOutput, RequestOutput
    from octavo.sampling import SamplingParams

__all__ = [
    "LLM",
    "CompletionOutput",
    "RequestOutput",
    "SamplingParams",
    "TextPrompt",
    "TokensPrompt",
    "__version__",
]

_MODULES = {
    "LLM": "octavo.llm",
    "TextPrompt": "octavo.inputs",
    "TokensPrompt": "octavo.inputs",
    "CompletionOutput": "octavo.outputs",
    "RequestOutput": "octavo.outputs",
    "SamplingParams": "octavo.sampling",
    "__version__": "octavo._core",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
