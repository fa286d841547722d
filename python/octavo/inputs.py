"""What a prompt may be, for `LLM`: text, token ids, or a dictionary with either, in vLLM's shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict


class TextPrompt(TypedDict):
    prompt: str
    cache_salt: NotRequired[str]
    """Requests share cached prefixes only with the same salt."""


class TokensPrompt(TypedDict):
    prompt_token_ids: Sequence[int]
    prompt: NotRequired[str]
    """The text of the ids, to be repeated in the output."""
    cache_salt: NotRequired[str]


Prompt = str | Sequence[int] | TextPrompt | TokensPrompt


@dataclass(frozen=True, slots=True)
class Input:
    """One prompt, whatever it came as."""

    text: str | None
    token_ids: list[int] | None
    """When given, these are the prompt, and `text` is for the output only."""
    cache_salt: str = ""

    @property
    def prompt(self) -> str | list[int]:
        """What the engine gets."""
        if self.token_ids is not None:
            return self.token_ids
        return self.text or ""


def parse_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Input]:
    """A list of token ids is one prompt; any other list is one prompt an item. ValueError for anything else."""
    if isinstance(prompts, str | Mapping) or _is_token_ids(prompts):
        return [parse_prompt(prompts)]
    if not isinstance(prompts, Sequence):
        raise ValueError(f"prompts: {type(prompts).__name__} is no prompt and no list of prompts")
    return [parse_prompt(prompt) for prompt in prompts]


def parse_prompt(prompt: Any) -> Input:
    """One prompt. ValueError when it is none."""
    if isinstance(prompt, str):
        return Input(prompt, None)
    if _is_token_ids(prompt):
        return Input(None, list(prompt))
    if not isinstance(prompt, Mapping):
        raise ValueError(f"prompts: {type(prompt).__name__} is no prompt: give text, token ids, or a dictionary")
    unknown = set(prompt) - {"prompt", "prompt_token_ids", "cache_salt", "multi_modal_data", "mm_processor_kwargs"}
    unsupported = unknown | {name for name in ("multi_modal_data", "mm_processor_kwargs") if prompt.get(name)}
    if unsupported:
        raise ValueError(f"prompts: octavo does not do {', '.join(sorted(unsupported))}")
    text, token_ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
    if text is None and token_ids is None:
        raise ValueError("prompts: a dictionary needs `prompt` or `prompt_token_ids`")
    if not isinstance(text, str | None):
        raise ValueError("prompts: `prompt` must be text")
    if token_ids is not None and not (isinstance(token_ids, Sequence) and all(_is_token(t) for t in token_ids)):
        raise ValueError("prompts: `prompt_token_ids` must be a list of integers")
    return Input(text, None if token_ids is None else list(token_ids), prompt.get("cache_salt") or "")


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_token_ids(prompt: object) -> bool:
    """An empty list is no prompt here: as `prompts` it asks for nothing."""
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, str | bytes)
        and len(prompt) > 0
        and all(map(_is_token, prompt))
    )
