"""The engine's loop: plan, run, commit.

One turn costs Python the same whatever the batch; a request is seen in Rust only.
"""

import logging

from octavo._core import Engine
from octavo.backends.base import Backend

logger = logging.getLogger(__name__)


def turn(engine: Engine, backend: Backend, timeout: float) -> bool:
    """One step, or at most `timeout` seconds of waiting for work. True when there was a step."""
    plan = engine.plan(timeout)
    if plan is None:
        return False
    try:
        backend.execute(plan)
    except BaseException as error:
        # An interrupted step has to leave the engine too, or its requests would wait for ever.
        engine.fail(plan.epoch, f"the step failed: {error!r}")
        if not isinstance(error, Exception):
            raise
        logger.exception("step %d failed", plan.epoch)
    else:
        engine.commit(plan.epoch)
    return True


def run(engine: Engine, backend: Backend) -> None:
    """Turns until the front end has gone, or has asked to drain and everything is done."""
    while not engine.closed:
        turn(engine, backend, timeout=1.0)
