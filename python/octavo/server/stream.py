"""An answer as server-sent events: all news of one drain of the engine goes out as one write.

The status line waits until the engine has admitted the request, so that a refusal is a proper 4xx or 503. Later
errors become `data: {"error": …}`. A client that does not read is aborted when its events pile up (engine_client).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from aiohttp import web

from octavo._core import Accepted, Delta, Failed
from octavo.server.answer import Answer
from octavo.server.chunks import DONE, ChunkEncoder
from octavo.server.engine_client import Event
from octavo.server.errors import ApiError
from octavo.server.protocol import StreamOptions

logger = logging.getLogger(__name__)

ADMISSION_SECONDS = 1.0
"""How long the status line waits for a first token. The engine refuses within a step; a queue may take longer."""
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True)
class StreamForm:
    """What the chunks of one stream contain."""

    options: StreamOptions
    token_ids: bool
    logprobs: Callable[[int, Delta], Any] | None
    """The log-probabilities of a choice's delta, in the route's shape."""
    opening: Callable[[int], list[bytes]]
    """The chunks that begin the choices of a prompt, once the engine has accepted it."""

    @property
    def plain(self) -> bool:
        return not self.token_ids and self.logprobs is None and not self.continuous_usage

    @property
    def continuous_usage(self) -> bool:
        return bool(self.options.include_usage and self.options.continuous_usage_stats)


def check_options(stream: bool, options: StreamOptions | None) -> StreamOptions:
    """Raises ApiError 400 for options of a stream that is none."""
    if options is None:
        return StreamOptions()
    if not stream:
        raise ApiError(400, "stream_options: needs stream to be true.", "stream_options")
    return options


async def admitted(answer: Answer) -> list[Event]:
    """The events until the engine runs the request, or lets it wait. Raises ApiError when it refuses."""
    events: list[Event] = []
    num_accepted, running = 0, False
    deadline: float | None = None
    loop = asyncio.get_running_loop()
    while not running:
        if num_accepted == answer.num_prompts:
            deadline = loop.time() + ADMISSION_SECONDS if deadline is None else deadline
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


async def send(request: web.Request, answer: Answer, chunks: ChunkEncoder, form: StreamForm) -> web.StreamResponse:
    """Streams the answer to its end. Raises ApiError only before the first byte."""
    events = await admitted(answer)
    response = web.StreamResponse(headers=HEADERS)
    if request.transport is not None:
        answer.stream.on_overflow = request.transport.abort
    await response.prepare(request)
    out: list[bytes] = []
    try:
        while True:
            encode_events(events, answer, chunks, form, out)
            if answer.stream.done:
                break
            if out:
                answer.stream.writing_since = time.monotonic()
                await response.write(b"".join(out))
                answer.stream.writing_since = inf
                out.clear()
            events = await answer.stream.next()
        if form.options.include_usage:
            out.append(chunks.usage(answer.usage()))
        how = "streamed"
    except ConnectionError:
        raise
    except Exception as error:
        how = "broke off"
        out += (b"data: ", mid_stream_error(error).body(), b"\n\n")
    answer.stream.abort()
    out.append(DONE)
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


def encode_events(
    events: list[Event], answer: Answer, chunks: ChunkEncoder, form: StreamForm, out: list[bytes]
) -> None:
    """Adds the chunks for these events to `out`. Raises ApiError for a failed request."""
    plain = form.plain
    for event in events:
        if isinstance(event, Delta):
            choice = answer.take(event)
            if plain and event.finish_reason is None:
                text = event.text
                if text:
                    out.append(chunks.text(choice, text))
            else:
                out.append(full_chunk(event, choice, answer, chunks, form))
        elif isinstance(event, Accepted):
            out += form.opening(answer.accept(event, keep_ids=form.token_ids))
        else:
            raise answer.fail(event)


def full_chunk(event: Delta, choice: int, answer: Answer, chunks: ChunkEncoder, form: StreamForm) -> bytes:
    return chunks.full(
        choice,
        event.text,
        logprobs=form.logprobs(choice, event) if form.logprobs is not None and event.num_tokens else None,
        finish=None if event.finish_reason is None else (event.finish_reason, event.stop_reason),
        token_ids=event.token_ids if form.token_ids else None,
        usage=answer.usage(details=False) if form.continuous_usage else None,
    )
