"""The server's life once its engine has begun (`launch`): texts → routes → ready → drain → end.

Whatever happens in between, no engine process is left behind.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import time
from math import inf
from typing import cast

from aiohttp import web

import octavo
from octavo._core import Tokenizer
from octavo.config import ServerConfig
from octavo.engine.spawn import EngineProcess
from octavo.engine.start import Prepared
from octavo.errors import ModelError, TemplateError
from octavo.pooling import PoolingModel
from octavo.server.connections import CONNECTIONS, Connection, OnlyOurErrors
from octavo.server.formats import OutputFormats, choose_formats
from octavo.server.listener import Listener
from octavo.server.logprobs import TokenTexts
from octavo.server.metrics import Metrics
from octavo.server.routes import build_app
from octavo.server.sampling import SamplingDefaults, SamplingResolver
from octavo.server.service import Service
from octavo.server.supervisor import EngineFailed, Supervisor
from octavo.server.template import ChatTemplate, load_chat_template

logger = logging.getLogger(__name__)

Texts = tuple[Tokenizer | None, ChatTemplate | None, OutputFormats]

ABORT_SECONDS = 2.0
"""What aborted streams get to tell their clients, at the end of a shutdown."""


async def serve(
    prepared: Prepared, engine: EngineProcess, server: ServerConfig, listener: Listener, texts: Texts, began: float
) -> int:
    """Serves until a signal; returns the exit code. `engine` has begun with `prepared.start`."""
    logging.getLogger("aiohttp.server").addFilter(OnlyOurErrors())
    return await Server(prepared, engine, server, listener, texts, began).run()


def open_texts(prepared: Prepared, server: ServerConfig) -> Texts:
    """Raises ModelError for a tokenizer or a template that cannot be used, and parsers that do not fit it."""
    checkpoint = prepared.checkpoint
    source = load_chat_template(server.chat_template) if server.chat_template is not None else None
    if checkpoint is None:
        return None, None, OutputFormats()
    source = source if source is not None else checkpoint.chat_template
    tokenizer = checkpoint.tokenizer()
    try:
        template = None if source is None else ChatTemplate(source, checkpoint.special_tokens)
    except TemplateError as error:
        raise ModelError(str(error)) from None
    return tokenizer, template, choose_formats(server, source, tokenizer)


class Stopping:
    """What signals have asked for: the first a drain, the second an end at once."""

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        self.now = asyncio.Event()

    def signalled(self) -> None:
        (self.now if self.drain.is_set() else self.drain).set()


class Server:
    def __init__(
        self,
        prepared: Prepared,
        process: EngineProcess,
        config: ServerConfig,
        listener: Listener,
        texts: Texts,
        began: float,
    ) -> None:
        start = prepared.start
        tokenizer, template, formats = texts
        engine = start.config
        self.config = config
        self.listener = listener
        self.began = began
        names = config.served_model_names or (engine.model.model,)
        metrics = Metrics.of(start, names[0])
        self.supervisor = Supervisor(start, process, tokenizer, metrics, stall_timeout=config.stall_timeout)
        self.service = Service(
            client=self.supervisor.client,
            health=self.supervisor.health,
            metrics=metrics,
            sampling=SamplingResolver(
                SamplingDefaults.from_generation_config(prepared.generation_config, config.stream_interval),
                start.vocab_size,
                engine.scheduler.max_logprobs,
            ),
            tokenizer=tokenizer,
            texts=TokenTexts(tokenizer),
            template=template,
            formats=formats,
            names=names,
            root=engine.model.model,
            max_model_len=start.memory.max_model_len,
            vocab_size=start.vocab_size,
            pooling=PoolingModel.of(prepared),
            priorities=engine.scheduler.policy == "priority",
            request_timeout=config.request_timeout or inf,
            config=config,
        )

    async def run(self) -> int:
        """From the spawned engine to the end of both; returns the exit code."""
        stopping = Stopping()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.signalled)
        at_once = True
        try:
            ready = asyncio.create_task(self.supervisor.first_ready())
            if not await finished(ready, stopping.drain):
                return 0
            runner = await self._listen()
            supervision = asyncio.create_task(self.supervisor.keep_running())
            try:
                await finished(supervision, stopping.drain)
                at_once = not await self._drain(stopping)
                return 1 if at_once else 0
            finally:
                supervision.cancel()
                self.listener.stop()
                await runner.cleanup()
        except EngineFailed as error:
            if str(error):
                print(f"octavo: error: {error}", file=sys.stderr, flush=True)
            return 1
        finally:
            await self.supervisor.end(at_once=at_once)

    async def _listen(self) -> web.AppRunner:
        app = build_app(self.service, self.config, self.supervisor)
        runner = web.AppRunner(app, handle_signals=False, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        http, connections = cast(web.Server, runner.server), app[CONNECTIONS]
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            return connections.opened(Connection(http, loop=loop, lingering_time=5.0, keepalive_timeout=75))

        self.listener.listen(connect)
        self.connections = connections
        # What was made while starting stays; the collector need not look at it again in the middle of a stream. To
        # collect first would take 20 ms, and find little: `launch` kept the collector off.
        gc.freeze()
        gc.enable()
        seconds = time.monotonic() - self.began
        name = ", ".join(self.service.names)
        print(
            f"octavo {octavo.__version__} serves {name} at {self.listener.address} (ready in {seconds:.1f} s)",
            flush=True,
        )
        return runner

    async def _drain(self, stopping: Stopping) -> bool:
        """Lets what runs finish, within shutdown_timeout. False when a second signal cut it short."""
        self.service.health.draining = True
        active, timeout = self.connections.num_active, self.config.shutdown_timeout
        if active:
            print(
                f"octavo: {active} requests finish first, within {timeout:.0f} s; a second signal ends at once",
                flush=True,
            )
        idle = asyncio.create_task(self.connections.idle.wait())
        now = asyncio.create_task(stopping.now.wait())
        try:
            await asyncio.wait((idle, now), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if now.done():
                return False
            if not idle.done():
                for request in list(self.service.client.streams):
                    self.service.client.frontend.abort(request)
                await asyncio.wait((idle, now), timeout=ABORT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            return not now.done()
        finally:
            idle.cancel()
            now.cancel()


async def finished(task: asyncio.Task[None], stop: asyncio.Event) -> bool:
    """Waits for `task`; raises what it raised. False, and the task cancelled, when `stop` came first."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        task.result()
        return True
    if stop.is_set():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return False
