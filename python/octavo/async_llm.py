"""`AsyncLLM`: requests from an event loop to an engine in a process of its own.

    generate() ─▶ Stream ─▶ Frontend (Rust threads) ── frames ──▶ engine process
         ◀── RequestOutput ◀── Collector ◀── events, as fileno() becomes readable

The loop is never blocked: tokenizing is done by the front end's threads, the model runs elsewhere. The object is made
outside of a loop or inside one, and belongs to the loop that first uses it, until that loop is closed.
"""

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Self

from octavo._core import Frontend
from octavo.collect import Collector
from octavo.config import EngineConfig
from octavo.engine.spawn import EngineProcess
from octavo.engine.start import prepare
from octavo.engine_args import AsyncEngineArgs, EngineArgs
from octavo.errors import EngineDeadError, ModelError
from octavo.inputs import Prompt, parse_prompt
from octavo.llm_engine import check_sleep, check_tags, unbounded
from octavo.model_info import ModelInfo
from octavo.outputs import PoolingRequestOutput, RequestOutput
from octavo.pooling import ANY_TASK, PoolingModel, PoolingParams
from octavo.sampling import SamplingParams
from octavo.server.engine_client import EngineClient
from octavo.server.metrics import Metrics
from octavo.tokenizer import ModelTokenizer

__all__ = ["AsyncLLM", "AsyncLLMEngine"]

logger = logging.getLogger(__name__)

LOOK_AGAIN = 0.1
"""Seconds between looks whether an engine that loads has died: its report comes as news of the front end."""
SAID_WHY = 1
"""The engine's exit status after a line on stderr."""
END_SECONDS = 5.0
"""What a drained engine gets to end by itself, before it is killed."""


class AsyncLLM:
    """A model in another process. Use it from one event loop at a time."""

    def __init__(self, config: EngineConfig, *, log_requests: bool = False) -> None:
        """Starts the engine, and waits until it serves. ModelError when the model cannot be used."""
        prepared = prepare(config)
        self.config = config
        self.model_config = ModelInfo.of(prepared)
        self.pooling = PoolingModel.of(prepared)
        self._log_requests = log_requests
        self._start = prepared.start
        checkpoint = prepared.checkpoint
        core = None if checkpoint is None else checkpoint.tokenizer()
        self._tokenizer = None if core is None or checkpoint is None else ModelTokenizer(core, checkpoint)
        self.metrics = Metrics.of(prepared.start, config.model.model)
        self._process: EngineProcess | None = EngineProcess(self._start)
        frontend = Frontend(
            self._process.endpoint(),
            core,
            max_model_len=self.model_config.max_model_len,
            vocab_size=prepared.start.vocab_size,
        )
        self._client = EngineClient(frontend, self.metrics)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._requests: dict[str, int] = {}
        """Request id → request, while it runs."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self._released: set[str] = set()
        """What a sleeping engine has yet to be woken by."""
        self._until_ready(self._process)

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, **_options: Any) -> Self:
        """ValueError for an option that octavo does not do; otherwise as the constructor."""
        log_requests = isinstance(engine_args, AsyncEngineArgs) and engine_args.enable_log_requests
        return cls(unbounded(engine_args), log_requests=log_requests)

    # ------------------------------------------------------------ requests

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """The request's outputs as they grow, by `sampling_params.output_kind`; the last one has `finished`.

        Outputs that the caller is too slow for come as one. A generator that is closed, or whose task is cancelled,
        ends the request. ValueError for what cannot be served, EngineDeadError when the engine is lost.
        """
        self._check(priority, lora_request=lora_request, tokenization_kwargs=tokenization_kwargs)
        if sampling_params.logits_processors:
            raise ValueError("logits_processors: they run in the engine's process; use LLM or LLMEngine")
        item, sampling = parse_prompt(prompt), sampling_params.to_core()
        await self._admit(request_id)
        collector = Collector(None if self._tokenizer is None else self._tokenizer.core, self.metrics)
        with self._client.open() as stream:
            request = stream.submit(
                item.prompt,
                sampling,
                n=sampling_params.n,
                add_special_tokens=True,
                clamp_max_tokens=True,
                priority=priority,
                cache_salt=item.cache_salt,
            )
            collector.open(
                request,
                item.text,
                sampling_params.n,
                request_id=request_id,
                kind=sampling_params.output_kind,
                params=sampling_params,
            )
            with self._running(request_id, request):
                while not stream.done:
                    for event in await stream.next():
                        collector.take(event)
                    for failed in collector.failures.values():
                        raise failed
                    for output in collector.news():
                        if isinstance(output, RequestOutput):
                            yield output

    async def encode(
        self,
        prompt: Prompt,
        pooling_params: PoolingParams,
        request_id: str,
        *,
        lora_request: None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[PoolingRequestOutput, None]:
        """What the model makes of the prompt, once: by the parameters' task, or what the model is for.

        Raises as `generate`; and ValueError for a task that the model has not.
        """
        self._check(priority, lora_request=lora_request, tokenization_kwargs=tokenization_kwargs)
        item = parse_prompt(prompt)
        tasks = ANY_TASK if pooling_params.task is None else (pooling_params.task,)
        task = self.pooling.choose(*tasks)
        self.pooling.check_dimensions(pooling_params.dimensions)
        await self._admit(request_id)
        collector = Collector(None, self.metrics)
        with self._client.open() as stream:
            request = stream.submit_pooling(
                item.prompt,
                pooling_params.to_core(task),
                add_special_tokens=True,
                truncate_prompt_tokens=pooling_params.truncate_prompt_tokens,
                truncation_side=pooling_params.truncation_side,
                priority=priority,
                cache_salt=item.cache_salt,
            )
            collector.open_pooling(request, request_id=request_id)
            with self._running(request_id, request):
                while not stream.done:
                    for event in [*await stream.next(), *stream.take_pooled()]:
                        collector.take(event)
                    for failed in collector.failures.values():
                        raise failed
                    for output in collector.news():
                        if isinstance(output, PoolingRequestOutput):
                            yield output

    def _check(self, priority: int, **others: object) -> None:
        for name, value in others.items():
            if value:
                raise ValueError(f"{name}: octavo does not do this yet")
        if priority and self.config.scheduler.policy != "priority":
            raise ValueError("priority: has an effect with scheduling_policy='priority' only")

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """Ends requests; their last output has the finish_reason "abort". Ids that are not running are passed over."""
        for name in [request_id] if isinstance(request_id, str) else request_id:
            if name in self._requests:
                self._client.frontend.abort(self._requests[name])

    async def _admit(self, request_id: str) -> None:
        """Waits while generation is paused. Raises what keeps a request from being taken."""
        await self._unpaused.wait()
        self._check_alive()
        if request_id in self._requests:
            raise ValueError(f"request_id: a request {request_id} is running")
        if self._released:
            raise RuntimeError("the engine sleeps; call wake_up() first")
        self._attach()

    @contextlib.contextmanager
    def _running(self, request_id: str, request: int) -> Iterator[None]:
        self._requests[request_id] = request
        self._idle.clear()
        if self._log_requests:
            logger.info("request %s began", request_id)
        try:
            yield
        finally:
            del self._requests[request_id]
            if not self._requests:
                self._idle.set()
            if self._log_requests:
                logger.info("request %s ended", request_id)

    def _attach(self) -> None:
        """Has the running loop bring the engine's events."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError("this AsyncLLM is used by another event loop")
        self._client.attach()
        self._loop = loop

    # ------------------------------------------------------------ state

    @property
    def errored(self) -> bool:
        """Whether the engine is lost. It does not come back: make a new AsyncLLM."""
        return self._process is None or (
            not self._released and (not self._client.frontend.connected or self._process.poll() is not None)
        )

    @property
    def is_running(self) -> bool:
        return not self.errored

    @property
    def is_stopped(self) -> bool:
        return self.errored

    @property
    def dead_error(self) -> EngineDeadError:
        return EngineDeadError()

    async def check_health(self) -> None:
        """Raises EngineDeadError when the engine is lost."""
        self._check_alive()

    def _check_alive(self) -> None:
        if self.errored:
            raise EngineDeadError

    async def pause_generation(
        self, *, mode: str = "abort", wait_for_inflight_requests: bool = False, clear_cache: bool = True
    ) -> None:
        """Has new requests wait until `resume_generation`. `mode`: "abort" or "wait", for those that run."""
        mode = "wait" if wait_for_inflight_requests else mode
        check_sleep(1, mode)
        self._check_alive()
        self._unpaused.clear()
        await self._quiet(mode)
        if clear_cache:
            await self.reset_prefix_cache()

    async def resume_generation(self) -> None:
        self._unpaused.set()

    async def is_paused(self) -> bool:
        return not self._unpaused.is_set()

    async def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Ends the engine's process, and with it all memory that it took, until `wake_up`.

        Both levels do the same. `mode`: "abort" or "wait", for requests that run.
        """
        check_sleep(level, mode)
        self._check_alive()
        if self._released:
            return
        await self._quiet(mode)
        self._released = {"weights", "kv_cache"}
        await asyncio.to_thread(self._end)

    async def wake_up(self, tags: Sequence[str] | None = None) -> None:
        """Starts the engine again. With `tags` ("weights", "kv_cache") it starts when both have been named."""
        woken = check_tags(tags)
        if not self._released:
            return
        if self._released - woken:
            self._released -= woken
            return
        process = self._process = EngineProcess(self._start)
        self._attach()
        self._client.reconnect(process.endpoint())
        await asyncio.to_thread(self._until_ready, process)
        self._released.clear()

    async def is_sleeping(self) -> bool:
        return bool(self._released)

    async def reset_prefix_cache(self) -> bool:
        """Forgets every cached prefix, before the next prompt."""
        if not self._released:
            self._check_alive()
            self._client.frontend.reset_prefix_cache()
        return True

    async def get_tokenizer(self) -> ModelTokenizer:
        if self._tokenizer is None:
            raise ValueError("there is no tokenizer without a model")
        return self._tokenizer

    async def get_model_config(self) -> ModelInfo:
        return self.model_config

    async def do_log_stats(self) -> None:
        """Nothing: `metrics` has what there is to tell."""

    async def add_lora(self, lora_request: object) -> NoReturn:
        raise NotImplementedError("add_lora: octavo does not do LoRA yet")

    async def collective_rpc(self, method: object, *_arguments: Any, **_options: Any) -> NoReturn:
        raise NotImplementedError("collective_rpc: octavo runs the model in one process; there are no workers to call")

    async def start_profile(self) -> NoReturn:
        raise NotImplementedError("start_profile: octavo has no profiler of its own; py-spy and perf see its threads")

    async def stop_profile(self) -> NoReturn:
        raise NotImplementedError("stop_profile: octavo has no profiler of its own")

    def shutdown(self, timeout: float | None = None) -> None:
        """Ends the engine process; what runs fails by EngineDeadError. The object cannot be used afterwards."""
        if self._process is None:
            return
        self._process.kill()
        self._process = None
        if self._loop is not None and not self._loop.is_closed():
            if self._requests:
                self._client.frontend.wait(END_SECONDS)
            self._client.dispatch()
            self._loop.remove_reader(self._client.frontend.fileno())

    # ------------------------------------------------------------ the engine process

    async def _quiet(self, mode: str) -> None:
        """Ends what runs, or waits for it."""
        if mode == "abort":
            await self.abort(list(self._requests))
        await self._idle.wait()

    def _until_ready(self, process: EngineProcess) -> None:
        """Blocks until the engine serves. Raises ModelError when it ends instead."""
        frontend = self._client.frontend
        while frontend.ready is None:
            status = process.poll()
            if status is not None:
                self._process = None
                said = "; the line above says why" if status == SAID_WHY else f" (status {status})"
                raise ModelError(f"the engine ended while it loaded the model{said}")
            frontend.wait(LOOK_AGAIN)
            if self._loop is None:
                frontend.drain()

    def _end(self) -> None:
        """Blocks until the engine's process has gone."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(Exception):
            self._client.frontend.drain_engine()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        process.kill()


AsyncLLMEngine = AsyncLLM
