"""Clients of streamed completions over plain HTTP, for the benches that measure a server.

A client keeps its connection for as long as the server does: llama-server closes it after every stream.
Events are counted without being parsed, so that it is the server which is measured. An error is a status other than
200, an error event, or an answer that does not end as it must.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, cast

import msgspec

LAST_CHUNK = b"\r\n0\r\n\r\n"

TAIL_BYTES = 4096
"""Enough for the last events, which tell whether an answer is whole."""


@dataclass
class Tally:
    """What all streams together have seen."""

    streams: int = 0
    errors: int = 0
    events: int = 0
    gaps_ms: list[float] = field(default_factory=list)
    firsts_ms: list[float] = field(default_factory=list)


def completion_request(host: str, port: int, body: dict[str, Any]) -> bytes:
    """A whole HTTP request for a streamed completion, with the usage at its end."""
    encoded = msgspec.json.encode({**body, "stream": True, "stream_options": {"include_usage": True}})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(encoded)}\r\n\r\n".encode() + encoded


class StreamClient(asyncio.Protocol):
    """One connection, one streamed request after the other: takes the next when one is done."""

    def __init__(self, requests: Iterator[bytes], max_tokens: int, tally: Tally) -> None:
        self.requests = requests
        self.ending = f'"completion_tokens":{max_tokens}'.encode()
        self.tally = tally
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.in_progress = False
        self.answers = 0
        self.unanswered: bytes | None = None
        """The request for which the server closed a connection that it had used before."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def send(self) -> None:
        request = next(self.requests, None)
        if request is None:
            self.transport.close()
            return
        self.request = request
        self.in_progress = True
        self.status_is_known = False
        self.tail = b""
        self.sent = time.perf_counter()
        self.last = 0.0
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        tally = self.tally
        if not self.status_is_known:
            self.status_is_known = True
            if not data.startswith(b"HTTP/1.1 200"):
                self.transport.close()
                return
        count = data.count(b"data: ")
        if count:
            tally.events += count
            if self.last:
                tally.gaps_ms.append((now - self.last) * 1000)
            else:
                tally.firsts_ms.append((now - self.sent) * 1000)
            self.last = now
        self.tail = (self.tail + data)[-TAIL_BYTES:]
        if self.tail.endswith(LAST_CHUNK):
            self.in_progress = False
            self.answers += 1
            tally.streams += 1
            tally.errors += self.ending not in self.tail or b"data: [DONE]" not in self.tail
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if self.in_progress and self.answers and not self.status_is_known:
            self.unanswered = self.request
        elif self.in_progress:
            self.tally.streams += 1
            self.tally.errors += 1
        self.closed.set_result(None)


async def stream_all(
    host: str, port: int, requests: Iterator[bytes], *, clients: int, max_tokens: int
) -> tuple[Tally, float]:
    """Every request of `requests`, by so many clients at a time: what was seen, and the seconds that it took."""
    tally = Tally()
    loop = asyncio.get_running_loop()

    async def client() -> None:
        waiting = requests
        while True:
            _, connection = await loop.create_connection(partial(StreamClient, waiting, max_tokens, tally), host, port)
            await connection.closed
            if connection.unanswered is None:
                return
            waiting = chain([connection.unanswered], requests)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return tally, time.perf_counter() - began
