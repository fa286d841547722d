"""What /metrics says: vLLM's names and labels, today's and the older ones side by side.

Counters come from the engine's own counts and survive its restart; histograms from the deltas and from the
finished requests' timings. Nothing is computed until a scrape, but for one bisection a delta.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from octavo._core import Delta, Stats, Timings
from octavo.engine.start import EngineStart
from octavo.server import histogram
from octavo.server.histogram import Histogram

ENGINE_COUNTERS = (
    "prefix_queries",
    "prefix_hits",
    "prompt_tokens",
    "generation_tokens",
    "num_preemptions",
    "num_rejected",
    "num_steps",
)
CACHE_HIT = "local_cache_hit"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
THROUGHPUT_WINDOW = 10.0
"""Seconds over which the average throughputs are taken."""


class Metrics(Collector):
    """Everything that is measured, for one served model."""

    def __init__(
        self, model_name: str, *, max_model_len: int, block_size: int, cache_config: Mapping[str, object]
    ) -> None:
        self.labels = {"model_name": model_name, "engine": "0"}
        self.block_size = block_size
        self.cache_config = {name: str(value) for name, value in cache_config.items()}
        tokens = histogram.one_two_five(max_model_len)
        latency = histogram.REQUEST_LATENCY
        self.time_to_first_token = Histogram(histogram.TIME_TO_FIRST_TOKEN)
        self.inter_token_latency = Histogram(histogram.INTER_TOKEN_LATENCY)
        self.time_per_output_token = Histogram(histogram.INTER_TOKEN_LATENCY)
        self.end_to_end, self.queue_time, self.inference_time = (
            Histogram(latency),
            Histogram(latency),
            Histogram(latency),
        )
        self.prefill_time, self.decode_time = Histogram(latency), Histogram(latency)
        self.prompt_length, self.generation_length = Histogram(tokens), Histogram(tokens)
        self.params_n, self.params_max_tokens = Histogram(histogram.PARAMS_N), Histogram(tokens)
        self.computed_tokens = Histogram(tokens)
        self.preemptions = Histogram(histogram.NUM_PREEMPTIONS)
        self.iteration_tokens = Histogram(histogram.ITERATION_TOKENS)
        self.finished: Counter[str] = Counter({"stop": 0, "length": 0, "abort": 0, "error": 0})
        self.rejections: Counter[str] = Counter({"queue_full": 0, "draining": 0})
        self.prompt_sources: Counter[str] = Counter({"local_compute": 0, CACHE_HIT: 0, "external_kv_transfer": 0})
        self.restarts = 0
        self.sleep_level = 0
        """0: the engine is awake."""
        self.sleep_durations = {name: Histogram(latency) for name in ("sleep", "wake_up")}
        self.num_changing = 0
        """Operations of that kind in progress."""
        self.http_requests: Counter[tuple[str, str, str]] = Counter()
        self.http_durations: defaultdict[tuple[str, str], Histogram] = defaultdict(
            lambda: Histogram(histogram.HTTP_DURATION)
        )
        self._stats: Stats | None = None
        self._base: Counter[str] = Counter()
        self._window: deque[tuple[float, int, int]] = deque()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    @classmethod
    def of(cls, start: EngineStart, model_name: str) -> "Metrics":
        """Of an engine that was started so."""
        memory, cache = start.memory, start.config.cache
        return cls(
            model_name,
            max_model_len=memory.max_model_len,
            block_size=memory.block_size,
            cache_config={
                "block_size": memory.block_size,
                "num_gpu_blocks": memory.num_blocks,
                "cache_dtype": memory.kv_dtype,
                "enable_prefix_caching": cache.enable_prefix_caching,
                "gpu_memory_utilization": cache.gpu_memory_utilization,
            },
        )

    # ------------------------------------------------------------ what happens

    def saw_delta(self, delta: Delta, arrival: float, last_tokens: dict[tuple[int, int], float], now: float) -> None:
        """News of a choice; `last_tokens` keeps when each choice of the request had its newest token."""
        if not delta.num_tokens:
            return
        choice = (delta.request, delta.index)
        last = last_tokens.get(choice)
        if last is not None:
            self.inter_token_latency.observe((now - last) / delta.num_tokens, delta.num_tokens)
        else:
            if delta.index == 0:
                self.time_to_first_token.observe(now - arrival)
            if delta.num_tokens > 1:  # these came together
                self.inter_token_latency.observe(0.0, delta.num_tokens - 1)
        last_tokens[choice] = now

    def saw_prompt(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The end of a prompt's first choice."""
        self.computed_tokens.observe(prompt_tokens - cached_tokens)
        self.prompt_sources["local_compute"] += prompt_tokens - cached_tokens
        self.prompt_sources[CACHE_HIT] += cached_tokens

    def saw_finish(self, reason: str, timings: Timings | None, prompt_tokens: int, generated: int) -> None:
        """The end of a choice."""
        self.finished[reason] += 1
        self.prompt_length.observe(prompt_tokens)
        self.generation_length.observe(generated)
        if timings is None or not timings.first_token:
            return
        last = timings.last_token
        self.end_to_end.observe(last - timings.arrival)
        self.queue_time.observe(timings.scheduled - timings.arrival)
        self.inference_time.observe(last - timings.scheduled)
        self.prefill_time.observe(timings.first_token - timings.scheduled)
        self.decode_time.observe(last - timings.first_token)
        self.preemptions.observe(timings.num_preemptions)
        if generated > 1:
            self.time_per_output_token.observe((last - timings.first_token) / (generated - 1))

    def saw_failure(self, reason: str) -> None:
        """A request that was refused, or that broke."""
        if reason in self.rejections:
            self.rejections[reason] += 1
        elif reason != "invalid":
            self.finished["error"] += 1

    def saw_stats(self, stats: Stats) -> None:
        """The engine's newest state."""
        before = self._stats.num_steps if self._stats is not None else 0
        if stats.num_steps > before:
            self.iteration_tokens.observe(stats.step_tokens, stats.num_steps - before)
        self._stats = stats

    def saw_http(self, handler: str, method: str, status: int, seconds: float) -> None:
        method = method if method in METHODS else "other"  # a client may send any word
        self.http_requests[handler, method, f"{status // 100}xx"] += 1
        self.http_durations[handler, method].observe(seconds)

    def engine_ended(self) -> None:
        """The next Stats count from zero again."""
        for name in ENGINE_COUNTERS:
            self._base[name] = self.total(name)
        self._stats = None

    def sample_throughput(self, now: float) -> None:
        """Called once a second."""
        self._window.append((now, self.total("prompt_tokens"), self.total("generation_tokens")))
        while now - self._window[0][0] > THROUGHPUT_WINDOW:
            self._window.popleft()

    # ------------------------------------------------------------ what a scrape gets

    def total(self, name: str) -> int:
        """An engine's counter since the server's start."""
        return self._base[name] + (getattr(self._stats, name) if self._stats is not None else 0)

    def waste(self) -> float:
        """The share of slots in used blocks that hold no token, 0 to 1."""
        stats = self._stats
        return (
            0.0
            if stats is None or not stats.num_used_blocks
            else (stats.num_wasted_slots / (stats.num_used_blocks * self.block_size))
        )

    def throughput(self) -> tuple[float, float]:
        """(prompt, generated) tokens a second over the window."""
        if len(self._window) < 2:
            return 0.0, 0.0
        (start, prompt, generated), (end, prompt_end, generated_end) = self._window[0], self._window[-1]
        return (prompt_end - prompt) / (end - start), (generated_end - generated) / (end - start)

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()
        yield from self._http()

    def _gauges(self) -> Iterator[Metric]:
        stats = self._stats
        waiting = stats.num_waiting if stats is not None else 0
        usage = stats.num_used_blocks / max(stats.num_blocks, 1) if stats is not None else 0.0
        prompt_rate, generation_rate = self.throughput()
        values = {
            "vllm:num_requests_running": ("Requests in the running batch.", stats.num_running if stats else 0),
            "vllm:num_requests_waiting": ("Requests that wait to be scheduled.", waiting),
            "vllm:num_requests_swapped": ("Always 0: octavo recomputes. An older name.", 0),
            "vllm:kv_cache_usage_perc": ("Share of the KV cache in use, 0 to 1.", usage),
            "vllm:gpu_cache_usage_perc": ("Older name of vllm:kv_cache_usage_perc.", usage),
            "vllm:cpu_cache_usage_perc": ("Share of the swap space in use: there is none. An older name.", 0),
            "vllm:avg_prompt_throughput_toks_per_s": ("Prompt tokens a second, over ten seconds.", prompt_rate),
            "vllm:avg_generation_throughput_toks_per_s": (
                "Generated tokens a second, over ten seconds.",
                generation_rate,
            ),
            "octavo:kv_cache_waste_perc": ("Share of slots in used blocks that hold no token, 0 to 1.", self.waste()),
        }
        for name, (documentation, value) in values.items():
            yield self._gauge(name, documentation, (), [((), value)])
        reasons = [(("capacity",), waiting), (("deferred",), 0)]
        yield self._gauge("vllm:num_requests_waiting_by_reason", "Waiting requests, by reason.", ("reason",), reasons)
        yield GaugeMetricFamily("vllm:sleep_mode_operations_in_flight", "Falling asleep, waking up.", self.num_changing)
        names = ("awake", "weights_offloaded", "discard_all")
        states = [((state,), float(level == self.sleep_level)) for level, state in enumerate(names)]
        yield self._gauge("vllm:engine_sleep_state", "1 for the state that the engine is in.", ("sleep_state",), states)
        cache = self.cache_config
        info = GaugeMetricFamily("vllm:cache_config_info", "The KV cache's settings.", labels=["engine", *cache])
        info.add_metric(["0", *cache.values()], 1)
        yield info

    def _gauge(
        self,
        name: str,
        documentation: str,
        extra: tuple[str, ...],
        rows: Sequence[tuple[tuple[str, ...], float]],
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, documentation, labels=[*self.labels, *extra])
        for labels, value in rows:
            family.add_metric([*self.labels.values(), *labels], value)
        return family

    def _counters(self) -> Iterator[Metric]:
        cached, prompts = self.total("prefix_hits"), self.total("prompt_tokens")
        plain = {
            "vllm:prefix_cache_queries": ("Tokens looked up in the prefix cache.", self.total("prefix_queries")),
            "vllm:prefix_cache_hits": ("Tokens found in the prefix cache.", cached),
            "vllm:num_preemptions": ("Preempted requests.", self.total("num_preemptions")),
            "vllm:prompt_tokens": ("Prompt tokens processed.", prompts),
            "vllm:prompt_tokens_cached": ("Prompt tokens from the prefix cache.", cached),
            "vllm:external_prefix_cache_queries": ("Tokens asked of a cache outside: there is none.", 0),
            "vllm:external_prefix_cache_hits": ("Tokens found in a cache outside: there is none.", 0),
            "vllm:mm_cache_queries": ("Images asked of a cache: there is none.", 0),
            "vllm:mm_cache_hits": ("Images found in a cache: there is none.", 0),
            "vllm:generation_tokens": ("Generated tokens.", self.total("generation_tokens")),
            "octavo:engine_steps": ("Steps of the engine.", self.total("num_steps")),
            "octavo:engine_restarts": ("Times that the engine was started again.", self.restarts),
        }
        for name, (documentation, value) in plain.items():
            family = CounterMetricFamily(name, documentation, labels=list(self.labels))
            family.add_metric(list(self.labels.values()), value)
            yield family
        cached_sources = {name: count for name, count in self.prompt_sources.items() if name != "local_compute"}
        labelled: dict[str, tuple[str, str, Mapping[str, int]]] = {
            "vllm:request_success": ("Finished choices.", "finished_reason", self.finished),
            "vllm:prompt_tokens_by_source": ("Prompt tokens of ended requests.", "source", self.prompt_sources),
            "vllm:prompt_tokens_cached_by_source": ("Those that were not computed.", "source", cached_sources),
        }
        for name, (documentation, label, counts) in labelled.items():
            family = CounterMetricFamily(name, documentation, labels=[*self.labels, label])
            for value_of_label, count in counts.items():
                family.add_metric([*self.labels.values(), value_of_label], count)
            yield family
        rejections = CounterMetricFamily(
            "vllm:admission_rejections", "Requests that were not admitted.", labels=["model_name", "reason"]
        )
        for reason, count in self.rejections.items():
            rejections.add_metric([self.labels["model_name"], reason], count)
        yield rejections

    def _histograms(self) -> Iterator[Metric]:
        table = {
            "vllm:time_to_first_token_seconds": self.time_to_first_token,
            "vllm:inter_token_latency_seconds": self.inter_token_latency,
            "vllm:time_per_output_token_seconds": self.inter_token_latency,
            "vllm:request_time_per_output_token_seconds": self.time_per_output_token,
            "vllm:e2e_request_latency_seconds": self.end_to_end,
            "vllm:request_latency_seconds": self.end_to_end,
            "vllm:request_queue_time_seconds": self.queue_time,
            "vllm:request_inference_time_seconds": self.inference_time,
            "vllm:request_prefill_time_seconds": self.prefill_time,
            "vllm:request_decode_time_seconds": self.decode_time,
            "vllm:request_prompt_tokens": self.prompt_length,
            "vllm:request_generation_tokens": self.generation_length,
            "vllm:request_max_num_generation_tokens": self.generation_length,
            "vllm:request_params_n": self.params_n,
            "vllm:request_params_max_tokens": self.params_max_tokens,
            "vllm:request_prefill_kv_computed_tokens": self.computed_tokens,
            "vllm:request_num_preemptions": self.preemptions,
            "vllm:iteration_tokens_total": self.iteration_tokens,
        }
        for name, values in table.items():
            yield values.family(name, name.partition(":")[2].replace("_", " "), self.labels)
        sleeps = HistogramMetricFamily(
            "vllm:sleep_mode_operation_duration_seconds", "Seconds to fall asleep, or to wake up.", labels=["operation"]
        )
        for operation, values in self.sleep_durations.items():
            values.add_to(sleeps, {"operation": operation})
        yield sleeps

    def _http(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("http_requests", "HTTP requests.", labels=["handler", "method", "status"])
        for labels, count in self.http_requests.items():
            requests.add_metric(list(labels), count)
        yield requests
        durations = HistogramMetricFamily(
            "http_request_duration_seconds", "Seconds from request to the answer's end.", labels=["handler", "method"]
        )
        for (handler, method), values in self.http_durations.items():
            values.add_to(durations, {"handler": handler, "method": method})
        yield durations

    def expose(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


METRICS = web.AppKey("metrics", Metrics)


async def get_metrics(request: web.Request) -> web.Response:
    """What Prometheus reads."""
    metrics = request.app[METRICS]
    metrics.sample_throughput(time.monotonic())
    return web.Response(body=metrics.expose(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
