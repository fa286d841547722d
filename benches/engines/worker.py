"""An engine in a Python process of its own, perhaps in another environment: the parent's end; `child.py` is the other.

The parent writes a line of JSON for each measurement: the prompts, the tokens to add, and what to time. The child
answers with one line.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from engines.processes import end, start


class Worker:
    """The child has loaded its model when this is made."""

    def __init__(self, python: Path, script: str, options: dict[str, Any], environment: dict[str, str]) -> None:
        words = (str(python), str(Path(__file__).with_name(script)), json.dumps(options))
        self._process = start(words, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.versions: dict[str, str] = self._answer()
        except BaseException:
            end(self._process, within=0.0)
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def seconds(self, prompts: list[list[int]], tokens: int, timing: str) -> float:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens, "timing": timing}) + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """Within a while, even in the middle of a measurement."""
        assert self._process.stdin
        self._process.stdin.close()
        end(self._process, within=5.0)

    def _answer(self) -> Any:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise ChildProcessError(f"{self._process.args} ended with exit code {self._process.wait()}")
