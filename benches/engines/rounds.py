"""The measurement: every contender once a round, A B C A B C …, so that all meet what else the machine does."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from engines.contenders import Contender
from engines.interfaces import Engine, WorkerEngine
from engines.processes import running, stop
from engines.workloads import Workload


class Field:
    """The contenders of a run. A Python API's process stays from one workload to the next, a server's does not."""

    def __init__(self, contenders: Sequence[Contender]) -> None:
        self._contenders = contenders
        self._workers: dict[str, Engine] = {}
        self.descriptions: dict[str, Mapping[str, str]] = {}
        self.loads: dict[str, list[float]] = {}
        """The load average as each round of a workload began."""

    def __enter__(self) -> "Field":
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._workers.values():
            _close(engine)

    def measure(self, workload: Workload, rounds: int) -> dict[str, list[float]]:
        """Tokens per second of each round, by the contender's name."""
        speeds: dict[str, list[float]] = {}
        with ExitStack() as stack:
            engines = {
                each.name: stack.enter_context(self._open(each, workload))
                for each in self._contenders
                if workload.name in each.workloads
            }
            for index in range(rounds):
                self.loads.setdefault(workload.name, []).append(round(os.getloadavg()[0], 2))
                prompts = workload.prompts(index)
                for name, engine in engines.items():
                    with running(engine.pid):
                        seconds = engine.seconds(workload, prompts)
                    speed = workload.counted_tokens / seconds
                    speeds.setdefault(name, []).append(speed)
                    _say(f"{workload.name} round {index + 1} of {rounds}: {name:<18} {speed:>10,.1f} tokens/s")
        return speeds

    @contextmanager
    def _open(self, contender: Contender, workload: Workload) -> Iterator[Engine]:
        engine = None if workload.timing == "http" else self._workers.get(contender.name)
        if engine is None:
            _say(f"{workload.name} starting {contender.name}")
            engine = contender.open(workload)
            stop(engine.pid)
            self.descriptions[f"{contender.name} in {workload.name}"] = engine.description
        if isinstance(engine, WorkerEngine):
            self._workers[contender.name] = engine
            yield engine
            return
        try:
            yield engine
        finally:
            _close(engine)


def _close(engine: Engine) -> None:
    with running(engine.pid):
        engine.close()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
