"""The ways in which an engine can be measured: its Python API, its server, its own benchmark program."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from engines import llamacpp
from engines.home import Home
from engines.servers import Server, ServerCommand
from engines.worker import Worker
from engines.workloads import Workload


class Engine(Protocol):
    """One that is started. It measures when asked, and stands still between."""

    description: Mapping[str, str]

    @property
    def pid(self) -> int | None:
        """None where every measurement is a process of its own."""

    def seconds(self, workload: Workload, prompts: list[list[int]]) -> float: ...

    def close(self) -> None: ...


class WorkerEngine:
    """A Python API, in a process of its own."""

    def __init__(
        self,
        python: Path,
        script: str,
        settings: Mapping[str, Any],
        format: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._worker = Worker(python, script, dict(settings), dict(environment or {}))
        self.pid = self._worker.pid
        packages = ", ".join(f"{name} {version}" for name, version in self._worker.versions.items())
        self.description = {"version": packages, "format": format, "settings": repr(dict(settings))}

    def seconds(self, workload: Workload, prompts: list[list[int]]) -> float:
        return self._worker.seconds(prompts, workload.output_tokens, workload.timing)

    def close(self) -> None:
        self._worker.close()


class OneByOneEngine(WorkerEngine):
    """One that has no scheduler: where that is the question, it takes one request after the other."""

    def seconds(self, workload: Workload, prompts: list[list[int]]) -> float:
        if not workload.one_by_one:
            return super().seconds(workload, prompts)
        timed = prompts[: workload.one_by_one]
        seconds = 0.0
        for prompt in timed:
            seconds += super().seconds(workload, [prompt])
        return seconds * len(prompts) / len(timed)


class ServerEngine:
    """Behind HTTP."""

    def __init__(self, command: ServerCommand, log: Path, packages: str, format: str) -> None:
        self._server = Server(command, log)
        try:
            self._server.until_ready()
        except BaseException:
            self._server.close()
            raise
        self.pid = self._server.pid
        self.description = {"version": packages, "format": format, "settings": " ".join(command.words)}

    def seconds(self, workload: Workload, prompts: list[list[int]]) -> float:
        _, seconds = self._server.run(workload, prompts)
        return seconds

    def close(self) -> None:
        self._server.close()


class ProgramEngine:
    """llama.cpp's benchmark program: a process for each measurement, which leaves loading out of its seconds."""

    pid = None

    def __init__(self, home: Home, format: str, threads: int) -> None:
        self._home = home
        self._format = format
        self._threads = threads
        settings = " ".join(("llama-batched-bench", *llamacpp.FLAGS))
        self.description = {"version": llamacpp.version(home), "format": format, "settings": settings}

    def seconds(self, workload: Workload, prompts: list[list[int]]) -> float:
        return llamacpp.batched_bench_seconds(self._home, self._format, self._threads, workload)

    def close(self) -> None:
        pass
