"""Thousands of broken requests beside good ones: each is answered or refused, and the good ones do not notice.

`make test-mutations` sends all 10,000; here the first of them.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from compat_servers import CHAT_MODEL, EMBEDDING_MODEL, READY_SECONDS
from mutations import requests

from octavo.cli.child import running_server

NUM_REQUESTS = int(os.environ.get("OCTAVO_TEST_MUTATIONS", "800"))
NUM_AT_ONCE = 16
NUM_NEIGHBOURS = 3
# A request that may go on to the end of the context is over soon.
FLAGS = ["--served-model-name", "wire", "--max-model-len", "256", "--enable-auto-tool-choice"]
CHAT_FLAGS = [*FLAGS, "--tool-call-parser", "hermes"]


async def test_broken_requests_harm_nobody() -> None:
    statuses: Counter[int] = Counter()
    with (
        running_server(CHAT_MODEL, *CHAT_FLAGS, ready_within=READY_SECONDS) as chat,
        running_server(EMBEDDING_MODEL, *FLAGS[:2], ready_within=READY_SECONDS) as embedding,
    ):
        url_of = {"chat": chat.address, "embedding": embedding.address}
        gate = asyncio.Semaphore(NUM_AT_ONCE)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:

            async def send(url: str, body: bytes) -> None:
                async with gate, session.post(url, data=body) as response:
                    text = await response.text()
                statuses[response.status] += 1
                check(url, body, response.status, response.content_type, text)

            async with neighbours(session, chat.address), asyncio.TaskGroup() as tasks:
                for server, path, body in requests(0, NUM_REQUESTS):
                    tasks.create_task(send(url_of[server] + path, body))
            await asyncio.gather(*(quiet(session, url) for url in url_of.values()))
    # Neither kind of answer is rare, or the mutations test nothing.
    assert min(statuses[200], statuses[400]) > NUM_REQUESTS // 10, statuses
    assert sum(statuses.values()) == NUM_REQUESTS


def check(url: str, body: bytes, status: int, content_type: str, text: str) -> None:
    shown = (url, body[:2000], status, text[:2000])
    assert 200 <= status < 500, shown
    if status != 200:
        answer = json.loads(text)
        error = answer["error"]
        expected = {"type", "message"} if "/v1/messages" in url else {"message", "type", "param", "code"}
        assert set(error) == expected, shown
    elif content_type == "text/event-stream":
        for line in text.splitlines():
            if line.startswith("data: {"):
                error = json.loads(line.removeprefix("data: ")).get("error")
                assert not error or error.get("code", 400) < 500, shown


@asynccontextmanager
async def neighbours(session: aiohttp.ClientSession, url: str) -> AsyncIterator[None]:
    """Good requests, again and again: their tokens stay the same."""
    stop = asyncio.Event()

    async def tokens(number: int) -> list[int]:
        body: dict[str, Any] = {"prompt": f"{number} apples and", "max_tokens": 120, "ignore_eos": True, "seed": number}
        body["temperature"] = 0.8 if number else 0
        async with session.post(f"{url}/v1/completions", json={**body, "return_token_ids": True}) as response:
            assert response.status == 200, await response.text()
            return (await response.json())["choices"][0]["token_ids"]

    alone = [await tokens(number) for number in range(NUM_NEIGHBOURS)]

    async def ask(number: int) -> int:
        count = 0
        while not stop.is_set():
            assert await tokens(number) == alone[number]
            count += 1
        return count

    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(ask(number)) for number in range(NUM_NEIGHBOURS)]
        try:
            yield
        finally:
            stop.set()
    assert min(task.result() for task in asking) > 0


async def quiet(session: aiohttp.ClientSession, url: str) -> None:
    """Nothing runs, every block is back, and no engine was started a second time."""
    deadline = asyncio.get_running_loop().time() + 20
    while True:
        async with session.get(f"{url}/metrics") as response:
            pairs = (line.rsplit(" ", 1) for line in (await response.text()).splitlines() if line[:1] != "#")
            values = {name.partition("{")[0]: float(value) for name, value in pairs}
        held = [
            values[f"vllm:{name}"] for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        ]
        if not any(held):
            break
        assert asyncio.get_running_loop().time() < deadline, held
        await asyncio.sleep(0.1)
    assert values["octavo:engine_restarts_total"] == 0
    async with session.get(f"{url}/health") as response:
        assert response.status == 200
