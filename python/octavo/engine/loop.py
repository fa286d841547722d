"""The engine's loop: plan, run, commit.

One turn costs Python the same whatever the batch; a request is seen in Rust only. Where the backend only enqueues its
work, the next step is planned and enqueued while one runs, so that the device does not wait for the host.
"""

import logging
from collections import deque

from octavo._core import Engine, Plan
from octavo.backends.base import Backend

logger = logging.getLogger(__name__)


class EngineLoop:
    def __init__(self, engine: Engine, backend: Backend) -> None:
        self._engine, self._backend = engine, backend
        self._started: deque[Plan] = deque()

    def turn(self, timeout: float) -> bool:
        """Starts a step and finishes one, or waits at most `timeout` seconds for work. True when there was a step."""
        plan = self._engine.plan(0.0 if self._started else timeout)
        if plan is not None:
            self._start(plan)
        if self._started and (plan is None or len(self._started) > self._backend.steps_ahead):
            self._finish()
            return True
        return plan is not None

    def run(self) -> None:
        """Turns until the front end has gone, or has asked to drain and everything is done."""
        while not self._engine.closed:
            self.turn(timeout=1.0)

    def _start(self, plan: Plan) -> None:
        try:
            self._backend.execute(plan)
        except BaseException as error:
            while self._started:
                self._finish()
            self._fail(plan, error)
        else:
            self._started.append(plan)

    def _finish(self) -> None:
        plan = self._started.popleft()
        try:
            self._backend.finish(plan)
        except BaseException as error:
            self._fail(plan, error)
        else:
            self._engine.commit(plan.epoch)

    def _fail(self, plan: Plan, error: BaseException) -> None:
        """An interrupted step has to leave the engine too, or its requests would wait for ever."""
        self._engine.fail(plan.epoch, f"the step failed: {error!r}")
        if not isinstance(error, Exception):
            raise error
        logger.error("step %d failed", plan.epoch, exc_info=error)
