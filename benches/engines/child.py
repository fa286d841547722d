"""The child's end of `worker.py`: answers each line on stdin with the seconds that were asked for.

This file runs in the peers' environments, so it needs the standard library alone.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Prompts = list[list[int]]
Generate = Callable[[Prompts, int], None]
"""Adds so many tokens to each prompt, all prompts at once."""


def options() -> dict[str, Any]:
    """What the parent gave the child."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def serve(load: Callable[[], tuple[Generate, dict[str, str]]]) -> None:
    """The child's end, to the end of stdin. What the engine prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    generate, versions = load()
    generate([list(range(100, 164))], 8)
    print(json.dumps(versions), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        print(_seconds(generate, request["prompts"], request["tokens"], request["timing"]), file=answers)


def _seconds(generate: Generate, prompts: Prompts, tokens: int, timing: str) -> float:
    def timed(batch: Prompts, count: int) -> float:
        began = time.perf_counter()
        generate(batch, count)
        return time.perf_counter() - began

    if timing == "decode":
        # The prompts' blocks are cached then, but for the last token: what differs between the two is decoding alone.
        timed(prompts, 1)
        return timed(prompts, 1 + tokens) - timed(prompts, 1)
    return timed(prompts, tokens)
