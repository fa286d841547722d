"""Turning an `LLMEngine` until all the requests of one call have ended, behind a progress bar."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

from octavo.llm_engine import LLMEngine

Progress = bool | Callable[..., Any]
"""Whether to show a bar, or what makes one in place of tqdm."""

T = TypeVar("T")


def run(
    engine: LLMEngine, submit: Callable[[], Iterable[int]], use_tqdm: Progress, what: str = "Generating"
) -> list[int]:
    """Turns the engine until all that `submit` submits has ended; returns those requests.

    Raises what ended the first that failed. Nothing of the call runs on then, and the next call may follow.
    """
    collector = engine.collector
    bar = use_tqdm if callable(use_tqdm) else tqdm
    requests: list[int] = []
    began, before = time.monotonic(), collector.num_tokens
    try:
        requests.extend(submit())
        pending = set(requests) & collector.pending
        with bar(total=len(requests), desc=what, unit="req", disable=not use_tqdm, dynamic_ncols=True) as shown:
            shown.update(len(requests) - len(pending))
            while pending:
                if engine.turn():
                    left = pending & collector.pending
                    speed = (collector.num_tokens - before) / max(time.monotonic() - began, 1e-9)
                    shown.set_postfix_str(f"{speed:.1f} tokens/s", refresh=False)
                    shown.update(len(pending) - len(left))
                    pending = left
                _raise_failure(collector.failures, requests)
        _raise_failure(collector.failures, requests)
    except BaseException:
        # Ctrl-C, or one bad prompt: nothing of this call may run on under the next.
        engine.finish(requests)
        raise
    return requests


def _raise_failure(failures: Mapping[int, Exception], requests: list[int]) -> None:
    failed = next((request for request in requests if request in failures), None) if failures else None
    if failed is not None:
        raise failures[failed]


def one_each(name: str, given: T | Sequence[T], count: int) -> Sequence[T]:
    """`given` for each of `count` prompts, or one after the other when it is a list."""
    if not isinstance(given, Sequence):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"{name}: {len(given)} for {count} prompts")
    return given
