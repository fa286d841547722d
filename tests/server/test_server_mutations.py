"""Thousands of broken requests at once: each is answered or refused in the error's shape, and the engine serves on."""

import asyncio
import json
import random
from collections import Counter
from typing import Any

from server_process import Client

NUM_REQUESTS = 1500
NUM_AT_ONCE = 24

SHARED: dict[str, Any] = {
    "max_tokens": 4,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "n": 2,
    "stop": ["x"],
    "stream": False,
    "seed": 1,
    "logit_bias": {"5": 1.0},
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "repetition_penalty": 1.1,
    "stop_token_ids": [7],
    "ignore_eos": True,
    "min_tokens": 1,
    "user": "u",
    "cache_salt": "s",
    "request_id": "r",
    "echo": False,
    "skip_special_tokens": True,
    "return_token_ids": True,
    "priority": 0,
}
CHAT = {
    **SHARED,
    "messages": [{"role": "user", "content": "Hi"}],
    "logprobs": True,
    "top_logprobs": 2,
    "chat_template_kwargs": {"a": 1},
    "add_generation_prompt": True,
    "continue_final_message": False,
}
COMPLETION = {**SHARED, "prompt": "Hello", "logprobs": 2}
OTHER_FIELDS = ["response_format", "tools", "best_of", "suffix", "unheard_of", "extra_body", "stream_options"]

NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 1e308, -1e308, 0.0, 1e-320, True, False]
TEXTS = ["", "x", "\u0000", "\ud7ff", "a" * 5000, "\u2202" * 100]
LISTS = [[], [[]], [1], [-1], [70000], [None], ["a"] * 70, [""], [[1, 2], [3]]]
OBJECTS = [{}, {"a": {}}, {"x": 1}, {"5": "y"}, {"role": "x"}]
MESSAGES = [
    [{"role": "user"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": [{"type": "text", "text": "q"}]}],
    [{"role": "user", "content": [{"type": "image_url"}]}],
]
VALUES: list[Any] = [None, *NUMBERS, *TEXTS, *LISTS, *OBJECTS, *MESSAGES]
INSERTIONS = [b"1e999", b"NaN", b"\xff\xfe", b"[[[[", b"\\ud800"]


def mutated_fields(choose: random.Random, whole: dict[str, Any]) -> bytes:
    """`whole` with up to three fields dropped or replaced."""
    body = dict(whole)
    for _ in range(choose.choice([0, 1, 1, 1, 2, 3])):
        name = choose.choice([*whole, *OTHER_FIELDS])
        if choose.random() < 0.15:
            body.pop(name, None)
        else:
            body[name] = choose.choice(VALUES)
    return json.dumps(body).encode()


def mutated_bytes(choose: random.Random, text: bytes) -> bytes:
    """`text` with up to four places overwritten, cut or filled."""
    body = bytearray(text)
    for _ in range(choose.randint(1, 4)):
        place = choose.randrange(len(body))
        kind = choose.random()
        if kind < 0.5:
            body[place] = choose.randrange(256)
        elif kind < 0.8:
            del body[place : place + choose.randint(1, 9)]
        else:
            body[place:place] = choose.choice(INSERTIONS)
        body = body or bytearray(b"{")
    return bytes(body)


async def test_mutated_bodies_are_answered_or_refused(client: Client) -> None:
    choose = random.Random(0)
    restarts = await client.gauge("octavo:engine_restarts_total")
    statuses: Counter[int] = Counter()
    gate = asyncio.Semaphore(NUM_AT_ONCE)

    async def send(path: str, body: bytes) -> None:
        async with gate, client.session.post(path, data=body) as response:
            text = await response.text()
        statuses[response.status] += 1
        assert response.status < 500, (body, text)
        if response.status != 200:
            error = json.loads(text)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["code"] == response.status

    async with asyncio.TaskGroup() as tasks:
        for _ in range(NUM_REQUESTS):
            route, whole = choose.choice([("chat/completions", CHAT), ("completions", COMPLETION)])
            body = mutated_fields(choose, whole)
            tasks.create_task(send(f"/v1/{route}", mutated_bytes(choose, body) if choose.random() < 0.2 else body))

    # Neither kind of answer is rare, or the mutations test nothing.
    assert min(statuses[200], statuses[400]) > NUM_REQUESTS // 10, statuses
    assert sum(statuses.values()) == NUM_REQUESTS
    assert await client.gauge("octavo:engine_restarts_total") == restarts
    await client.still_serves()
