"""An answer as server-sent events: all news of one drain of the engine goes out as one write.

The status line waits until the engine has admitted the request, so that a refusal is a proper 4xx or 503. Later
errors become an event. A client that does not read is aborted when its events pile up (engine_client). What the events
look like is the matter of an `EventEncoder`; `ChunkStream` is the one of OpenAI's chunks.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

import msgspec
from aiohttp import web

from octavo._core import Accepted, Delta, Failed
from octavo.server.answer import Answer
from octavo.server.chunks import DONE, ChunkEncoder
from octavo.server.engine_client import Event
from octavo.server.errors import ApiError
from octavo.server.protocol import StreamOptions
from octavo.server.service import Service

logger = logging.getLogger(__name__)

ADMISSION_SECONDS = 1.0
"""How long the status line waits for a first token. The engine refuses within a step; a queue may take longer."""
COMPILATION_SECONDS = 8.0
"""The same where a structure is compiled first, which the engine gives up after 5 seconds."""
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class EventEncoder(Protocol):
    """The bytes of one stream, whole events at a time."""

    def encode(self, events: list[Event], out: list[bytes]) -> None:
        """Adds what these events say. Raises ApiError for a failed request."""
        ...

    def end(self) -> list[bytes]:
        """What follows the last event of the engine."""
        ...

    def error(self, error: ApiError) -> list[bytes]:
        """What tells the client that the answer broke off, and ends the stream."""
        ...


def check_options(service: Service, stream: bool, options: StreamOptions | None) -> StreamOptions:
    """Raises ApiError 400 for options of a stream that is none."""
    if options is not None and not stream:
        raise ApiError(400, "stream_options: needs stream to be true.", "stream_options")
    forced = {"include_usage": True} if stream and service.config.enable_force_include_usage else {}
    return msgspec.structs.replace(options or StreamOptions(), **forced)


async def admitted(answer: Answer) -> list[Event]:
    """The events until the engine runs the request, or lets it wait. Raises ApiError when it refuses."""
    events: list[Event] = []
    num_accepted, running = 0, False
    deadline: float | None = None
    loop = asyncio.get_running_loop()
    while not running:
        if num_accepted == answer.num_prompts:
            seconds = ADMISSION_SECONDS if answer.structure_field is None else COMPILATION_SECONDS
            deadline = loop.time() + seconds if deadline is None else deadline
            if not await answer.stream.wait(deadline - loop.time()):
                break
        news = await answer.stream.next()
        for event in news:
            if isinstance(event, Failed):
                raise answer.fail(event)
            if isinstance(event, Accepted):
                num_accepted += 1
            else:
                running = True
        events += news
        running = running and num_accepted == answer.num_prompts
    return events


async def send(request: web.Request, answer: Answer, encoder: EventEncoder) -> web.StreamResponse:
    """Streams the answer to its end. Raises ApiError only before the first byte."""
    events = await admitted(answer)
    response = web.StreamResponse(headers=HEADERS)
    if request.transport is not None:
        answer.stream.on_overflow = request.transport.abort
    await response.prepare(request)
    out: list[bytes] = []
    keep_alive = answer.service.config.sse_keep_alive_interval
    try:
        while True:
            encoder.encode(events, out)
            if answer.stream.done:
                break
            if out:
                answer.stream.writing_since = time.monotonic()
                await response.write(b"".join(out))
                answer.stream.writing_since = inf
                out.clear()
            if keep_alive:
                while not await answer.stream.wait(keep_alive):
                    await response.write(KEEP_ALIVE)
            events = await answer.stream.next()
        out += encoder.end()
        how = "streamed"
    except ConnectionError:
        raise
    except Exception as error:
        how = "broke off"
        out += encoder.error(mid_stream_error(error))
    answer.stream.abort()
    await response.write(b"".join(out))
    await response.write_eof()
    answer.log_end(how)
    return response


def mid_stream_error(error: Exception) -> ApiError:
    """What the client reads about an error that came too late for a status."""
    if isinstance(error, ApiError):
        return error
    logger.error("a stream failed", exc_info=error)
    return ApiError(500, "The server failed to go on with this answer; its log says why.")


class ChunkStream:
    """OpenAI's chunks, where the text of a delta is the text of its choice."""

    def __init__(
        self,
        answer: Answer,
        chunks: ChunkEncoder,
        options: StreamOptions,
        *,
        token_ids: bool,
        logprobs: Callable[[int, Delta], Any] | None,
        opening: Callable[[int], list[bytes]],
    ) -> None:
        """`logprobs`: those of a choice's delta, in the route's shape. `opening`: the chunks that begin the choices of
        a prompt, once the engine has accepted it."""
        self.answer = answer
        self.chunks = chunks
        self._include_usage = bool(options.include_usage)
        self.continuous_usage = bool(options.include_usage and options.continuous_usage_stats)
        self.token_ids = token_ids
        self.logprobs = logprobs
        self._opening = opening
        self.is_plain = not token_ids and logprobs is None and not self.continuous_usage
        """Whether a chunk says nothing but text."""

    def encode(self, events: list[Event], out: list[bytes]) -> None:
        for event in events:
            if isinstance(event, Delta):
                self.add_delta(event, out)
            elif isinstance(event, Accepted):
                out += self._opening(self.answer.accept(event, keep_ids=self.token_ids))
            else:
                raise self.answer.fail(event)

    def add_delta(self, delta: Delta, out: list[bytes]) -> None:
        choice = self.answer.take(delta)
        if not self.is_plain or delta.finish_reason is not None:
            out.append(self.full(choice, delta))
        elif delta.text:
            out.append(self.chunks.text(choice, delta.text))

    def full(self, choice: int, delta: Delta) -> bytes:
        return self.chunks.full(
            choice,
            delta.text,
            logprobs=self.logprobs(choice, delta) if self.logprobs is not None and delta.num_tokens else None,
            finish=None if delta.finish_reason is None else (delta.finish_reason, delta.stop_reason),
            token_ids=delta.token_ids if self.token_ids else None,
            usage=self.answer.usage(details=False) if self.continuous_usage else None,
        )

    def end(self) -> list[bytes]:
        return [self.chunks.usage(self.answer.usage(), self.answer.metrics()), DONE] if self._include_usage else [DONE]

    def error(self, error: ApiError) -> list[bytes]:
        return [b"data: ", error.body(), b"\n\n", DONE]
