"""POST /v1/chat/completions/batch: the answers are those that each conversation gets alone."""

from typing import Any

import pytest
from server_process import Client

CONVERSATIONS = [
    [{"role": "user", "content": text}] for text in ("Capital of France? One word.", "Say hello.", "What is 2 + 2?")
]


async def ask(client: Client, **body: Any) -> dict[str, Any]:
    asked = {"messages": CONVERSATIONS, "temperature": 0, "max_tokens": 8, **body}
    status, answer = await client.post("/v1/chat/completions/batch", asked)
    assert status == 200, answer
    return answer


async def test_each_conversation_is_answered_as_alone(model_client: Client) -> None:
    together = await ask(model_client, logprobs=True)
    assert together["object"] == "chat.completion"
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2]
    prompt_tokens = 0
    for conversation, choice in zip(CONVERSATIONS, together["choices"], strict=True):
        body = {"messages": conversation, "temperature": 0, "max_tokens": 8, "logprobs": True}
        _, alone = await model_client.post("/v1/chat/completions", body)
        assert alone["choices"][0]["message"] == choice["message"]
        assert alone["choices"][0]["logprobs"] == choice["logprobs"]
        prompt_tokens += alone["usage"]["prompt_tokens"]
    assert together["usage"]["prompt_tokens"] == prompt_tokens


async def test_choices_are_numbered_conversation_by_conversation(client: Client) -> None:
    answer = await ask(client, n=2, temperature=1, return_token_ids=True)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert answer["usage"]["completion_tokens"] == sum(len(choice["token_ids"]) for choice in answer["choices"])


@pytest.mark.parametrize(
    ("param", "told", "body"),
    [
        ("messages", "messages", {"messages": []}),
        ("messages", "messages[0]", {"messages": CONVERSATIONS[0]}),
        ("messages", "messages", {"messages": None}),
        ("messages", "conversations", {"messages": CONVERSATIONS * 100}),
        ("messages[1]", "messages[1][0].role", {"messages": [CONVERSATIONS[0], [{"content": "x"}]]}),
        ("stream", "stream", {"stream": True}),
        ("temperature", "temperature", {"temperature": -1}),
        ("n", "n", {"n": 1000}),
    ],
)
async def test_a_refusal_names_the_place(client: Client, param: str, told: str, body: dict[str, Any]) -> None:
    status, answer = await client.post("/v1/chat/completions/batch", {"messages": CONVERSATIONS, **body})
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert told in answer["error"]["message"]
    await client.still_serves()
