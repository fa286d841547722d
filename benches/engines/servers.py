"""An engine behind HTTP: its process, started as its users start it, and the workloads over `/v1/completions`."""

import http.client
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import uvloop

from _streams import Tally, completion_request, stream_all
from engines.processes import end, start
from engines.workloads import Workload
from octavo.cli.child import free_port

HOST = "127.0.0.1"
POLL_SECONDS = 0.005
"""Well under what any server needs to start."""


@dataclass(frozen=True)
class ServerCommand:
    """How a server is started; `{port}` in the words is filled in."""

    words: tuple[str, ...]
    model: str
    """Its name in a request."""
    environment: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    """What its requests need beside the standard fields."""


class Server:
    """Started now; `until_ready` waits for it. Its output goes to `log`."""

    def __init__(self, command: ServerCommand, log: Path) -> None:
        self.command = command
        self.port = free_port()
        self.began = time.perf_counter()
        with log.open("w") as output:
            words = [word.replace("{port}", str(self.port)) for word in command.words]
            self._process = start(words, command.environment, stdin=DEVNULL, stdout=output, stderr=output)
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def until_ready(self, seconds: float = 300.0) -> None:
        while not self._is_healthy():
            if (code := self._process.poll()) is not None:
                raise ChildProcessError(f"the server ended with exit code {code}; see {self._log}")
            if time.perf_counter() - self.began > seconds:
                raise TimeoutError(f"the server was not ready after {seconds:.0f} s; see {self._log}")
            time.sleep(POLL_SECONDS)

    def run(self, workload: Workload, prompts: list[list[int]]) -> tuple[Tally, float]:
        """Every prompt, by the workload's clients; seconds. RuntimeError when an answer was not whole."""
        tally, seconds = uvloop.run(
            stream_all(
                HOST,
                self.port,
                self._requests(prompts, workload.output_tokens),
                clients=workload.clients or workload.requests,
                max_tokens=workload.output_tokens,
            )
        )
        if tally.errors:
            raise RuntimeError(f"{tally.errors} of {tally.streams} streams failed; see {self._log}")
        return tally, seconds

    def close(self) -> None:
        self._process.terminate()
        end(self._process, within=30.0)

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _requests(self, prompts: list[list[int]], tokens: int) -> Iterator[bytes]:
        fields = {"model": self.command.model, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        for prompt in prompts:
            yield completion_request(HOST, self.port, {**fields, **self.command.body, "prompt": prompt})
