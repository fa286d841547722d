"""Broken requests to the Responses and the Messages API: each is answered or refused in its API's shape of errors."""

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest
from server_process import Client
from test_server_mutations import OTHER_FIELDS, VALUES, mutated_bytes

NUM_REQUESTS = 400
NUM_AT_ONCE = 24

TURN: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "x"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello", "annotations": []}]},
    {"type": "message", "role": "user", "content": "Hi"},
]
RESPONSE: dict[str, Any] = {
    "input": TURN,
    "instructions": "Be brief.",
    "max_output_tokens": 4,
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 2,
    "metadata": {"a": "b"},
    "text": {"format": {"type": "text"}},
    "reasoning": {"summary": "auto"},
    "truncation": "disabled",
    "stream": False,
    "store": True,
    "tools": [],
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 1,
    "stop": ["x"],
    "logit_bias": {"5": 1.0},
}
MESSAGE: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": ""}]},
        {"role": "user", "content": "Hi"},
    ],
    "system": [{"type": "text", "text": "Be brief."}],
    "max_tokens": 4,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "stop_sequences": ["x"],
    "stream": False,
    "metadata": {"user_id": "u"},
    "tools": [],
    "tool_choice": {"type": "auto"},
}
COUNT = {name: MESSAGE[name] for name in ("messages", "system", "metadata", "tools", "tool_choice")}
ROUTES = [("/v1/responses", RESPONSE), ("/v1/messages", MESSAGE), ("/v1/messages/count_tokens", COUNT)]


def mutated(choose: random.Random, value: Any) -> Any:
    """`value` with one place in it, at any depth, dropped or replaced."""
    if isinstance(value, dict) and value and choose.random() < 0.8:
        name = choose.choice([*value, *OTHER_FIELDS] if choose.random() < 0.1 else list(value))
        if choose.random() < 0.15:
            return {other: kept for other, kept in value.items() if other != name}
        return {**value, name: mutated(choose, value.get(name))}
    if isinstance(value, list) and value and choose.random() < 0.8:
        place = choose.randrange(len(value))
        return [*value[:place], mutated(choose, value[place]), *value[place + 1 :]]
    return choose.choice(VALUES)


async def test_mutated_bodies_are_answered_or_refused(client: Client) -> None:
    choose = random.Random(0)
    statuses: Counter[tuple[str, int]] = Counter()
    gate = asyncio.Semaphore(NUM_AT_ONCE)

    async def send(path: str, body: bytes) -> None:
        async with gate, client.session.post(path, data=body) as response:
            text = await response.text()
        statuses[path, response.status] += 1
        assert response.status < 500, (body, text)
        if response.status == 200:
            return
        answer = json.loads(text)
        if path == "/v1/responses":
            assert answer["error"]["code"] == response.status
        else:
            assert (answer["type"], set(answer["error"])) == ("error", {"type", "message"})

    async with asyncio.TaskGroup() as tasks:
        for _ in range(NUM_REQUESTS):
            path, whole = choose.choice(ROUTES)
            body = whole
            for _ in range(choose.choice([0, 1, 1, 1, 2])):
                body = mutated(choose, body)
            text = json.dumps(body).encode()
            tasks.create_task(send(path, mutated_bytes(choose, text) if choose.random() < 0.1 else text))

    for path, _ in ROUTES:
        assert min(statuses[path, 200], statuses[path, 400]) > NUM_REQUESTS // 20, statuses
    await client.still_serves()


@pytest.mark.parametrize("depth", [200, 700, 100_000])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_nesting_is_answered_or_refused(client: Client, path: str, depth: int) -> None:
    name = "input" if path == "/v1/responses" else "messages"
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    body = {name: [{"role": "user", "content": "Hi"}], limit: 4, "chat_template_kwargs": {"a": "here"}}
    text = json.dumps(body).replace('"here"', "[" * depth + "]" * depth)
    status, answer = await client.post(path, data=text)
    assert status == (200 if depth == 200 else 400), answer
    await client.still_serves()
