"""Logits processors: Python callables that change the logits of a request before each of its tokens is chosen.

A processor is called with (output_token_ids, logits) or, when it takes three arguments, with (prompt_token_ids,
output_token_ids, logits), and returns the logits to go on with. `logits` is float32 [vocab_size], a numpy array of its
own, which may be changed in place; what comes back may be a torch tensor. Everything else (bias, penalties,
log-probabilities, the choice) is computed from what comes back.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

LogitsProcessor = Callable[..., Any]


def takes_prompt(processor: LogitsProcessor) -> bool:
    return len(inspect.signature(processor).parameters) == 3


def name_of(processor: object) -> str:
    return getattr(processor, "__name__", type(processor).__name__)


def check_processors(processors: Sequence[LogitsProcessor] | None) -> list[LogitsProcessor]:
    """ValueError for what is no callable on one request's logits."""
    if processors is None:
        return []
    if not isinstance(processors, Sequence) or isinstance(processors, str):
        raise ValueError(f"logits_processors: expected a list of callables, not {type(processors).__name__}")
    for processor in processors:
        if isinstance(processor, str | type):
            # These are vLLM V1's: one object that changes the logits of the whole batch.
            shown = processor if isinstance(processor, str) else processor.__name__
            raise ValueError(
                f"logits_processors: {shown} is a name or a class; octavo takes callables, (output_token_ids, logits) "
                "or (prompt_token_ids, output_token_ids, logits) to logits, each for one request"
            )
        if not callable(processor):
            raise ValueError(f"logits_processors: {processor!r} cannot be called")
        if (count := len(inspect.signature(processor).parameters)) not in (2, 3):
            raise ValueError(f"logits_processors: {name_of(processor)} takes {count} arguments, and must take 2 or 3")
    return list(processors)
