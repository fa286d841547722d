"""An engine in a Python process of its own, perhaps in another environment: both ends of the conversation.

The parent writes a line of JSON for each measurement: the prompts, the tokens to add, and what to time. The child
answers with one line. This file runs in the peers' environments too, so it needs the standard library alone.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Prompts = list[list[int]]
Generate = Callable[[Prompts, int], None]
"""Adds so many tokens to each prompt, all prompts at once."""


class Worker:
    """The parent's end; the child has loaded its model when `versions` is there."""

    def __init__(self, python: Path, script: str, options: dict[str, Any], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name(script)), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self.versions: dict[str, str] = self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def seconds(self, prompts: Prompts, tokens: int, timing: str) -> float:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens, "timing": timing}) + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise ChildProcessError(f"{self._process.args} ended with exit code {self._process.wait()}")


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
