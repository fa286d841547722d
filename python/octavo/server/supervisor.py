"""Keeps an engine process running behind one `EngineClient`.

    start → ready → serving → dead, or stuck and killed → (back-off) → start …
                    serving → asleep → (wake_up) → start …

After a death the open streams have failed by themselves (Frontend.drain); here the process is started again. When it
dies too often in a row, the supervisor gives up and the server ends. Asleep, there is no engine process, so that
weights, KV cache and the device's context are gone; that end is wanted, and no death.
"""

import asyncio
import contextlib
import logging
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from octavo._core import Frontend, Tokenizer
from octavo.engine.spawn import EngineProcess
from octavo.engine.start import EngineStart
from octavo.server.engine_client import EngineClient
from octavo.server.errors import ApiError
from octavo.server.health import EngineState, Health
from octavo.server.metrics import Metrics

logger = logging.getLogger(__name__)

Ending = Literal["abort", "wait"]
"""How running requests end when the engine is to stop: at once, with finish_reason abort, or when they are done."""

MAX_DEATHS = 5
DEATH_WINDOW = 60.0
"""This many deaths within so many seconds, and the server gives up."""
LONGEST_BACKOFF = 8.0
LOOK_AGAIN = 0.1
"""Seconds between looks whether an engine that loads has died: its report comes as news of the front end."""
TICK = 1.0
SAID_WHY = 1
"""The engine's exit status after a line on stderr."""
END_SECONDS = 5.0
"""What a drained engine gets to end by itself, before it is killed."""


class EngineFailed(Exception):
    """The engine cannot be kept running: one line for the user, empty when the engine has said why itself."""


class Supervisor:
    def __init__(
        self,
        start: EngineStart,
        process: EngineProcess,
        tokenizer: Tokenizer | None,
        metrics: Metrics,
        *,
        stall_timeout: float,
    ) -> None:
        """`process` is the first engine, which has begun with `start`. Use the supervisor on the event loop only."""
        self.start = start
        self.process = process
        frontend = Frontend(
            self.process.endpoint(),
            tokenizer,
            max_model_len=start.memory.max_model_len,
            vocab_size=start.vocab_size,
        )
        self.client = EngineClient(frontend, metrics)
        self.health = Health(self.client, stall_timeout)
        self._deaths: deque[float] = deque()
        self._resting = False
        """The engine's end is wanted."""
        self._wake = asyncio.Event()
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()

    async def first_ready(self) -> None:
        """Waits for the first engine. Raises EngineFailed when it ends instead."""
        self.client.attach()
        status = await self._until_ready()
        if status is not None:
            raise EngineFailed("" if status == SAID_WHY else f"the engine did not start: it {how_it_ended(status)}")

    async def keep_running(self) -> None:
        """Starts the engine again whenever it dies, and when it is woken. Ends by EngineFailed, or when cancelled."""
        tick = asyncio.create_task(self._tick())
        try:
            while True:
                status = await asyncio.to_thread(self.process.wait)
                if self._resting:
                    await self._sleep_until_woken()
                else:
                    await self._replace(status)
        finally:
            tick.cancel()

    async def sleep(self, level: int, ending: Ending) -> None:
        """Ends the engine, once what runs has ended. Raises ApiError 503 when it is not serving."""
        await self._finish("sleep", self._fall_asleep(level, ending))

    async def wake_up(self) -> None:
        """Starts a sleeping engine and waits until it serves. Raises ApiError 503 when it cannot be started."""
        await self._finish("wake_up", self._wake_up())

    async def quiet(self, ending: Ending) -> None:
        """Waits until no request runs."""

        def none_runs() -> bool:
            if ending == "abort":  # again and again: one that was let in before may be submitted only now
                for request in list(self.client.streams):
                    self.client.frontend.abort(request)
            return not self.client.streams

        await self._until(none_runs)

    async def _finish(self, name: str, change: Coroutine[Any, Any, None]) -> None:
        """Does it to its end, also when the client that asked for it has gone."""

        async def measured() -> None:
            metrics, began = self.client.metrics, time.monotonic()
            metrics.num_changing += 1
            try:
                await change
            finally:
                metrics.num_changing -= 1
                metrics.sleep_durations[name].observe(time.monotonic() - began)

        task = asyncio.create_task(measured())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _fall_asleep(self, level: int, ending: Ending) -> None:
        async with self._changing:
            if self.health.engine is EngineState.ASLEEP:
                return
            self.health.check_engine()
            self.health.engine = EngineState.ASLEEP
            self._resting = True
            await self.quiet(ending)
            await self._end_process()
            self.client.dispatch()
            self.client.metrics.engine_ended()
            self.client.metrics.sleep_level = level

    async def _wake_up(self) -> None:
        async with self._changing:
            if self.health.engine is not EngineState.ASLEEP:
                return
            self.health.engine = EngineState.STARTING
            self._wake.set()
            await self._until(lambda: self.health.engine is not EngineState.STARTING)
            if self.health.engine is EngineState.ASLEEP:
                raise ApiError(503, "The engine could not be started, and is asleep still; the server's log says why.")

    async def _sleep_until_woken(self) -> None:
        await self._wake.wait()
        self._wake.clear()
        began = time.monotonic()
        if (status := await self._start_again()) is not None:
            logger.error("the engine could not wake up: it %s", how_it_ended(status))
            self.health.engine = EngineState.ASLEEP
            self.client.news.set()
            return
        self._resting = False
        self.client.metrics.sleep_level = 0
        logger.info("the engine is awake, after %.1f s", time.monotonic() - began)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.client.news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.client.news.wait(), LOOK_AGAIN)

    async def end(self, *, at_once: bool = False) -> None:
        """Ends the engine process, whatever state it is in; afterwards none is left."""
        await self._end_process(at_once=at_once)
        self.client.detach()

    async def _end_process(self, *, at_once: bool = False) -> None:
        if not at_once and self.process.poll() is None:
            with contextlib.suppress(Exception):
                self.client.frontend.drain_engine()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self.process.wait, END_SECONDS)
        if self.process.poll() is None:
            self.process.kill()
        self.process.terminate()

    async def _until_ready(self) -> int | None:
        """None when the engine serves, or the status that it ended with."""
        while self.client.frontend.ready is None:
            status = self.process.poll()
            if status is not None:
                return status
            self.client.news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.client.news.wait(), LOOK_AGAIN)
        self.health.engine = EngineState.SERVING
        self.client.last_report = time.monotonic()
        return None

    async def _replace(self, status: int) -> None:
        """After a death: waits a little longer each time, and starts another until one is ready."""
        while True:
            self.health.engine = EngineState.RESTARTING
            self.client.dispatch()
            now = time.monotonic()
            self._deaths.append(now)
            while now - self._deaths[0] > DEATH_WINDOW:
                self._deaths.popleft()
            count = len(self._deaths)
            if count >= MAX_DEATHS:
                self.health.engine = EngineState.FAILED
                raise EngineFailed(
                    f"the engine has died {count} times within {DEATH_WINDOW:.0f} s; last, it {how_it_ended(status)}"
                )
            backoff = 0.0 if count == 1 else min(2.0 ** (count - 2), LONGEST_BACKOFF)
            logger.error("the engine %s; it is started again in %.0f s", how_it_ended(status), backoff)
            await asyncio.sleep(backoff)
            self.client.metrics.restarts += 1
            ended = await self._start_again()
            if ended is None:
                logger.warning("the engine serves again, %.1f s after it died", time.monotonic() - now)
                return
            status = ended

    async def _start_again(self) -> int | None:
        """A new process; None when it serves, or the status that it ended with."""
        self.process.terminate()
        self.process = EngineProcess(self.start)
        self.client.reconnect(self.process.endpoint())
        return await self._until_ready()

    async def _tick(self) -> None:
        """Once a second: what no event of a request brings."""
        now = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            before, now = now, time.monotonic()
            self.client.observe(now)
            if now - before > 2 * TICK:
                # This process did not run (it was stopped, or its machine): the engine may have reported meanwhile.
                self.client.last_report = now
            self.client.metrics.sample_throughput(now)
            if silent := self.health.stalled():
                logger.error("the engine has been stuck for %.0f s (--stall-timeout); it is ended", silent)
            lost = self.health.engine is EngineState.SERVING and not self.client.frontend.connected
            if silent or lost:
                # Stuck, or it has closed its connection without ending: nothing more will come of it.
                self.process.kill()


def how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
