"""The one owner of `_core.Frontend`: hands each event to the request that waits for it.

    Frontend ── fileno() readable ──▶ EngineClient.dispatch ── drain() ──▶ Stream.push … wake, once a drain

A `Stream` carries one HTTP request, which may be several engine requests (a list of prompts). Whatever way its
handler ends, leaving `with client.open()` aborts what still runs.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from math import inf
from types import TracebackType
from typing import Literal, Self

from octavo._core import Accepted, Delta, Endpoint, Failed, Frontend, Pooled, Pooling, Sampling, Stats
from octavo.server.errors import ApiError
from octavo.server.metrics import Metrics

Event = Accepted | Delta | Failed

MAX_PENDING_TOKENS = 32_768
STUCK_SECONDS = 1.0
"""A client that has read nothing for so long, with so many tokens waiting (10 MB at most), has its request aborted."""


class SlowReader(ConnectionResetError):
    """The client let its answer pile up."""


class Stream:
    """The events of one HTTP request, in order. Use it as a context manager."""

    def __init__(self, client: "EngineClient", timeout: float) -> None:
        """`timeout`: seconds until it fails, whatever it waits for; infinity: never."""
        self._client = client
        self._timeout = timeout
        self._expired = False
        loop = asyncio.get_running_loop()
        self._timer = None if timeout == inf else loop.call_later(timeout, self._expire)
        self._events: list[Event] = []
        self._pooled: list[Pooled] = []
        self._pending_tokens = 0
        self._waiter: asyncio.Future[None] | None = None
        self.writing_since = inf
        """When the write began that waits for the client to read."""
        self._overflowed = False
        self.on_overflow: Callable[[], None] | None = None
        """Called when the client's events pile up: its handler is then stuck in a write."""
        self.name = ""
        """What the client calls its request."""
        self.open_choices: dict[int, int] = {}
        """Request → choices without a last event."""
        self.arrival = time.monotonic()
        self.last_tokens: dict[tuple[int, int], float] = {}
        """(request, choice) → when its newest token came."""

    def submit(
        self,
        prompt: str | Sequence[int],
        sampling: Sampling,
        *,
        n: int,
        add_special_tokens: bool,
        clamp_max_tokens: bool,
        priority: int = 0,
        cache_salt: str = "",
    ) -> int:
        """Sends a prompt to the engine; returns its number. Every outcome arrives as an event."""
        request = self._client.frontend.submit(
            prompt,
            sampling,
            add_special_tokens=add_special_tokens,
            clamp_max_tokens=clamp_max_tokens,
            priority=priority,
            cache_salt=cache_salt,
        )
        return self._opened(request, n)

    def submit_pooling(
        self,
        prompt: str | Sequence[int] | tuple[str, str],
        pooling: Pooling,
        *,
        add_special_tokens: bool,
        truncate_prompt_tokens: int | None,
        truncation_side: Literal["left", "right"],
        priority: int = 0,
        cache_salt: str = "",
    ) -> int:
        """Has a prompt pooled; returns its number. Every outcome arrives as an event."""
        request = self._client.frontend.submit_pooling(
            prompt,
            pooling,
            add_special_tokens=add_special_tokens,
            truncate_prompt_tokens=truncate_prompt_tokens,
            truncation_side=truncation_side,
            priority=priority,
            cache_salt=cache_salt,
        )
        return self._opened(request, 1)

    def _opened(self, request: int, n: int) -> int:
        self.open_choices[request] = n
        self._client.streams[request] = self
        return request

    @property
    def done(self) -> bool:
        """No event will follow, and none is left."""
        return not self.open_choices and not self._events and not self._expired

    def push(self, event: Event | Pooled, now: float) -> bool:
        """Keeps an event; True when it is the last of its request."""
        if isinstance(event, Pooled):
            self._pooled.append(event)
            self.open_choices.pop(event.request, None)
            return True
        if self._pending_tokens >= MAX_PENDING_TOKENS and now - self.writing_since > STUCK_SECONDS:
            self._overflowed = True
            self._events.clear()
            self.abort()
            if self.on_overflow is not None:
                self.on_overflow()
            return True
        self._events.append(event)
        if isinstance(event, Delta):
            self._pending_tokens += event.num_tokens
            if event.finish_reason is None:
                return False
            self.open_choices[event.request] -= 1
            if self.open_choices[event.request]:
                return False
        elif isinstance(event, Accepted):
            return False
        self.open_choices.pop(event.request, None)
        return True

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, seconds: float) -> bool:
        """Whether there are events, after at most `seconds` of waiting for some."""
        try:
            async with asyncio.timeout(seconds):
                await self._wait()
        except TimeoutError:
            return False
        return True

    async def next(self) -> list[Event]:
        """Waits for news; returns all there is. Raises SlowReader when too much had piled up, ApiError 408 when the
        request's time is over."""
        await self._wait()
        events, self._events = self._events, []
        self._pending_tokens = 0
        return events

    def take_pooled(self) -> list[Pooled]:
        """What prompts have been pooled to since the last call; `next` waits for these too."""
        pooled, self._pooled = self._pooled, []
        return pooled

    async def _wait(self) -> None:
        while not self._events and not self._pooled:
            if self._overflowed:
                raise SlowReader("the client did not read its answer")
            if self._expired:
                raise ApiError(408, f"This request was not done within its timeout of {self._timeout:g} seconds.")
            if not self.open_choices:
                raise ApiError(500, "The engine ended this request without a result.")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _expire(self) -> None:
        """The events that are there still count; nothing follows them."""
        if self.open_choices:
            self._expired = True
            self.abort()
            self.wake()

    def abort(self) -> None:
        """Ends what still runs, and forgets it."""
        for request, num_choices in self.open_choices.items():
            self._client.frontend.abort(request)
            self._client.streams.pop(request, None)
            self._client.metrics.finished["abort"] += num_choices
        self.open_choices.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.open_choices:
            self.abort()


class EngineClient:
    """Belongs to one event loop, from `attach` to `detach`."""

    def __init__(self, frontend: Frontend, metrics: Metrics) -> None:
        self.frontend = frontend
        self.metrics = metrics
        self.streams: dict[int, Stream] = {}
        self.last_report = time.monotonic()
        """When the engine last showed that it moves."""
        self._last_time = 0.0
        self.news = asyncio.Event()
        """Set whenever the front end has said something, its engine's ready report included."""

    def attach(self) -> None:
        asyncio.get_running_loop().add_reader(self.frontend.fileno(), self.dispatch)

    def detach(self) -> None:
        asyncio.get_running_loop().remove_reader(self.frontend.fileno())

    def open(self, timeout: float = inf) -> Stream:
        return Stream(self, timeout)

    def dispatch(self) -> None:
        """Gives each event to its stream, and wakes each stream once."""
        events = self.frontend.drain()
        now = time.monotonic()
        touched: dict[int, Stream] = {}
        streams, metrics = self.streams, self.metrics
        for event in events:
            request = event.request
            stream = streams.get(request)
            if stream is None:
                continue
            if isinstance(event, Delta):
                metrics.saw_delta(event, stream.arrival, stream.last_tokens, now)
            if stream.push(event, now):
                streams.pop(request, None)
            touched[id(stream)] = stream
        for stream in touched.values():
            stream.wake()
        self.observe(now)
        self.news.set()

    def observe(self, now: float) -> Stats | None:
        """Notes the engine's newest state, and that it moves."""
        stats = self.frontend.stats
        if stats is not None and stats.time != self._last_time:
            self._last_time = stats.time
            self.last_report = now
            self.metrics.saw_stats(stats)
        return stats

    def reconnect(self, endpoint: Endpoint) -> None:
        """Speaks to a new engine; streams of the old one have got their error, or get it now."""
        self.dispatch()
        self.metrics.engine_ended()
        self.frontend.reconnect(endpoint)
        self.last_report = time.monotonic()
        self._last_time = 0.0

    @property
    def num_open(self) -> int:
        return len(self.streams)

    def seconds_without_report(self) -> float:
        """How long the engine has said nothing. With nothing to do it says so once a second."""
        return time.monotonic() - self.last_report
