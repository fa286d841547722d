"""`LLMEngine`: an engine in this process that its caller turns, step by step.

The same engine and front end as under the server, joined by an in-process ring. `LLM` is built on it.
"""

import gc
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import msgspec

from octavo._core import Delta, Endpoint, Frontend, Sampling
from octavo.collect import Collector
from octavo.config import EngineConfig
from octavo.engine.build import build_engine
from octavo.engine.loop import EngineLoop
from octavo.engine.start import prepare
from octavo.engine_args import EngineArgs
from octavo.inputs import Input, Prompt, parse_prompt
from octavo.logits_processors import LogitsProcessor, check_processors
from octavo.model_info import ModelInfo
from octavo.outputs import PoolingRequestOutput, RequestOutput
from octavo.pooling import ANY_TASK, PoolingModel, PoolingParams, PoolingTask
from octavo.sampling import RequestOutputKind, SamplingParams
from octavo.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    from octavo.metrics_reader import Metric
    from octavo.server.metrics import Metrics

UNBOUNDED_QUEUE = 2**31 - 1
"""Nobody else waits here: every prompt of a call is admitted."""

MEMORY = frozenset({"weights", "kv_cache"})
"""What a sleeping engine has given up, by the tags of `wake_up`."""


class LLMEngine:
    """A model in this process. Use it from one thread at a time."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        log_stats: bool = False,
        chat_template: str | None = None,
        logits_processors: Sequence[LogitsProcessor] | None = None,
    ) -> None:
        """Loads the model. ModelError (with one line to show) when it cannot be used.

        `log_stats`: keep what `get_metrics` returns. It loads the server's metrics, and costs a little each token.
        `logits_processors`: called for every request, before its own.
        """
        self._logits_processors = check_processors(logits_processors)
        prepared = prepare(config)
        self.config = config
        self.checkpoint = prepared.checkpoint
        self.generation_config = prepared.generation_config
        self.model_config = ModelInfo.of(prepared)
        self.pooling = PoolingModel.of(prepared)
        self.chat_template = chat_template
        self._start = prepared.start
        core = None if prepared.checkpoint is None else prepared.checkpoint.tokenizer()
        if core is not None and prepared.checkpoint is not None:
            self._tokenizer = ModelTokenizer(core, prepared.checkpoint, chat_template)
        self.metrics = self._open_metrics() if log_stats else None
        self.collector = Collector(core, self.metrics)
        self._arrivals: dict[int, float] = {}
        self._last_tokens: dict[tuple[int, int], float] = {}
        self._numbers: dict[str, int] = {}
        """Request id → request, of those that were added by id and have not ended."""
        self._released: set[str] = set()
        self.frontend = Frontend(
            self._load(), core, max_model_len=self.model_config.max_model_len, vocab_size=prepared.start.vocab_size
        )

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, **_options: Any) -> Self:
        """ValueError for an option that octavo does not do; otherwise as the constructor."""
        return cls(unbounded(engine_args), log_stats=not engine_args.disable_log_stats)

    def _load(self) -> Endpoint:
        front, back = Endpoint.pair()
        self.core, self.backend = build_engine(self._start, back)
        self._loop = EngineLoop(self.core, self.backend)
        self._processors = self.backend.logits_processors
        return front

    # ------------------------------------------------------------ vLLM's loop: add requests, step

    def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams | PoolingParams,
        *,
        lora_request: None = None,
        tokenization_kwargs: None = None,
        priority: int = 0,
    ) -> str:
        """Has the engine take a prompt. ValueError when it cannot be served, or the id is in use; returns the id."""
        for name, value in (("lora_request", lora_request), ("tokenization_kwargs", tokenization_kwargs)):
            if value is not None:
                raise ValueError(f"{name}: octavo does not do this yet")
        if request_id in self._numbers:
            raise ValueError(f"request_id: a request {request_id} is running")
        item = parse_prompt(prompt)
        if isinstance(params, PoolingParams):
            request = self.submit_pooling(
                item.prompt, params, ANY_TASK, request_id=request_id, priority=priority, cache_salt=item.cache_salt
            )
        else:
            request = self.submit(item, params, kind=params.output_kind, request_id=request_id, priority=priority)
        self._numbers[request_id] = request
        while not self.collector.is_accepted(request):
            if request in self.collector.failures:
                del self._numbers[request_id]
                raise self.collector.failures.pop(request)
            self.frontend.wait(0.05)
            self.take_events()
        return request_id

    def step(self) -> list[RequestOutput | PoolingRequestOutput]:
        """Turns the engine once; returns the requests that have changed, as their `output_kind` says.

        Raises what ended a request when it failed; the others are not touched, and the next step goes on.
        """
        self.turn()
        for request_id, request in list(self._numbers.items()) if self.collector.failures else ():
            if request in self.collector.failures:
                del self._numbers[request_id]
                raise self.collector.failures.pop(request)
        outputs = self.collector.news()
        for output in outputs:
            if output.finished:
                self._numbers.pop(output.request_id, None)
        return outputs

    def abort_request(self, request_ids: str | Iterable[str]) -> None:
        """Ends requests; their last output has the finish_reason "abort". Ids that are not running are passed over."""
        for request_id in [request_ids] if isinstance(request_ids, str) else request_ids:
            if request_id in self._numbers:
                self.frontend.abort(self._numbers[request_id])

    def has_unfinished_requests(self) -> bool:
        """Whether `step` has more to say: a request counts until its last output was returned, or its error raised."""
        return bool(self._numbers or self.collector.pending)

    def get_num_unfinished_requests(self) -> int:
        return len(self.collector.pending.union(self._numbers.values()))

    # ------------------------------------------------------------ what LLM uses

    def submit(
        self,
        item: Input,
        params: SamplingParams,
        *,
        sampling: Sampling | None = None,
        kind: RequestOutputKind = RequestOutputKind.FINAL_ONLY,
        request_id: str | None = None,
        priority: int = 0,
        add_special_tokens: bool = True,
    ) -> int:
        """Sends a prompt on its way; every outcome comes with the events. RuntimeError while the engine sleeps.

        `sampling`: of `params`, where the caller has it already.
        """
        self._check(priority)
        processors = [*self._logits_processors, *(params.logits_processors or ())]
        if processors and self._processors is None:
            raise ValueError("logits_processors: without a model there are no logits")
        if processors and not params.logits_processors:
            sampling = replace(params, logits_processors=processors).to_core()
        request = self.frontend.submit(
            item.prompt,
            sampling if sampling is not None else params.to_core(),
            add_special_tokens=add_special_tokens,
            clamp_max_tokens=True,
            priority=priority,
            cache_salt=item.cache_salt,
        )
        if processors and self._processors is not None:
            self._processors.add(request, processors)
        self.collector.open(request, item.text, params.n, kind=kind, request_id=request_id, params=params)
        if self.metrics is not None:
            self._arrivals[request] = time.monotonic()
            self.metrics.params_n.observe(params.n)
        return request

    def submit_pooling(
        self,
        prompt: str | list[int] | tuple[str, str],
        params: PoolingParams,
        tasks: tuple[PoolingTask, ...],
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
    ) -> int:
        """As `submit`, for a prompt that is pooled: by the parameters' task, or the first of `tasks` that there is."""
        self._check(priority)
        task = self.pooling.choose(*tasks) if params.task is None else self.pooling.choose(params.task)
        self.pooling.check_dimensions(params.dimensions)
        request = self.frontend.submit_pooling(
            prompt,
            params.to_core(task),
            truncate_prompt_tokens=params.truncate_prompt_tokens,
            truncation_side=params.truncation_side,
            priority=priority,
            cache_salt=cache_salt,
        )
        self.collector.open_pooling(request, request_id=request_id)
        return request

    def _check(self, priority: int) -> None:
        self.check_awake()
        if priority and self.config.scheduler.policy != "priority":
            raise ValueError("priority: has an effect with scheduling_policy='priority' only")

    def turn(self) -> int:
        """Takes what has come, and turns the engine once; the number of requests that ended."""
        ended = self.take_events()
        if self.collector.pending and not self._loop.turn(timeout=0.0):
            # Prompts are still being tokenized, or the last tokens turned into text.
            self.frontend.wait(0.01)
        return ended

    def take_events(self) -> int:
        """Gives the front end's events to the collector; the number of requests that ended."""
        events = self.frontend.drain()
        if self.metrics is not None and events:
            now = time.monotonic()
            for event in events:
                if isinstance(event, Delta):
                    arrival = self._arrivals.get(event.request, now)
                    self.metrics.saw_delta(event, arrival, self._last_tokens, now)
            self.metrics.saw_stats(self.core.stats)
        ended = sum(self.collector.take(event) for event in events)
        if ended and self._processors is not None:
            for request in self._processors.errors.keys() & self.collector.failures.keys():
                self.collector.failures[request] = self._processors.failure(request)
            self._processors.keep(self.collector.pending)
        return ended

    def finish(self, requests: Iterable[int]) -> None:
        """Aborts these requests, and turns the engine until they have ended. The others go on."""
        for request in requests:
            self.frontend.abort(request)
        while not self.collector.pending.isdisjoint(requests):
            self.turn()
        self.collector.forget(requests)

    # ------------------------------------------------------------ state

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Frees the weights and the KV cache. Both levels do the same: `wake_up` loads the weights again.

        `mode`: "abort" or "wait", for what still runs.
        """
        check_sleep(level, mode)
        if mode == "abort":
            for request in list(self.collector.pending):
                self.frontend.abort(request)
        while self.collector.pending:
            self.turn()
        if not self._released:
            self._release()
        self._released = set(MEMORY)

    def _release(self) -> None:
        del self._loop, self.core, self.backend
        self._processors = None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def wake_up(self, tags: Sequence[str] | None = None) -> None:
        """Loads the model again. With `tags` ("weights", "kv_cache") it is loaded when both have been named."""
        woken = check_tags(tags)
        if not self._released:
            return
        if self._released - woken:
            self._released -= woken
            return
        if self.metrics is not None:
            self.metrics.engine_ended()
        self.frontend.reconnect(self._load())
        self._released.clear()

    def is_sleeping(self) -> bool:
        return bool(self._released)

    def check_awake(self) -> None:
        """Raises RuntimeError while the engine sleeps."""
        if self._released:
            raise RuntimeError("the engine sleeps; call wake_up() first")

    def reset_prefix_cache(self) -> bool:
        """Forgets every cached prefix, before the next prompt."""
        if not self._released:
            self.frontend.reset_prefix_cache()
        return True

    def get_tokenizer(self) -> ModelTokenizer:
        if self.checkpoint is None:
            raise ValueError("there is no tokenizer without a model")
        return self._tokenizer

    @property
    def tokenizer(self) -> ModelTokenizer:
        return self.get_tokenizer()

    @property
    def vllm_config(self) -> Any:
        """The options, where scripts look for them in vLLM."""
        config = self.config
        return SimpleNamespace(
            model_config=self.model_config,
            cache_config=config.cache,
            scheduler_config=config.scheduler,
            parallel_config=config.parallel,
            device_config=config.device,
        )

    def get_metrics(self) -> list["Metric"]:
        """ValueError without `disable_log_stats=False`."""
        if self.metrics is None:
            raise ValueError("get_metrics: the engine was made with disable_log_stats=True, the default of LLM")
        from octavo.metrics_reader import read

        return read(self.metrics)

    def _open_metrics(self) -> "Metrics":
        from octavo.server.metrics import Metrics

        return Metrics.of(self._start, self.config.model.model)

    def shutdown(self) -> None:
        """Frees the model and its memory; the object cannot be used afterwards."""
        for name in ("frontend", "_loop", "backend", "core"):
            self.__dict__.pop(name, None)


def unbounded(engine_args: EngineArgs) -> EngineConfig:
    """The checked options, for an engine whose caller brings all its prompts at once."""
    config = engine_args.create_engine_config()
    scheduler = msgspec.structs.replace(config.scheduler, max_num_queued_reqs=UNBOUNDED_QUEUE)
    return msgspec.structs.replace(config, scheduler=scheduler)


def check_sleep(level: int, mode: str) -> None:
    if level not in (1, 2):
        raise ValueError(f"level: must be 1 or 2, not {level!r}")
    if mode not in ("abort", "wait"):
        raise ValueError(f"mode: must be abort or wait, not {mode!r}")


def check_tags(tags: Sequence[str] | None) -> set[str]:
    """What to wake. ValueError for a tag that is none."""
    woken = set(MEMORY if tags is None else tags)
    if unknown := woken - MEMORY:
        raise ValueError(f"tags: {', '.join(sorted(unknown))}; there are {', '.join(sorted(MEMORY))}")
    return woken
