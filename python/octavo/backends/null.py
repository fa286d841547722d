"""No model: every sampled token is the same one. For benchmarks and tests of everything around the model."""

import time
from typing import Any

from octavo._core import Engine, Plan
from octavo.backends.base import Arena, HostBackend, bind_arenas


class NullBackend(HostBackend):
    """Samples `token` with log-probability 0 and rank 1. A step takes `step_seconds` or more, as if a device ran it."""

    logits_processors = None

    def __init__(self, token: int, step_seconds: float = 0.0) -> None:
        self._token = token
        self._step_seconds = step_seconds
        self._arenas: list[Arena] = []

    @property
    def info(self) -> dict[str, Any]:
        return {"dtype": "none", "device": "none", "threads": 1}

    def bind(self, engine: Engine) -> None:
        self._arenas = bind_arenas(engine)
        for arena in self._arenas:
            arena["sampled"].fill(self._token)
            arena["sampled_rank"].fill(1)
            arena["top_ids"].fill(self._token)

    def execute(self, plan: Plan) -> None:
        if self._step_seconds:
            time.sleep(self._step_seconds)
        self._arenas[plan.arena]["sampled"][: plan.num_samples] = self._token
