"""Beam search over HTTP: the best texts, best first, the same whole and streamed, and refusals by name."""

from typing import Any

import pytest
from server_process import Client

COMPLETION = {"prompt": "The three primary colours are red,", "max_tokens": 10, "use_beam_search": True, "n": 3}
MESSAGES = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]


async def test_a_completion_gives_the_best_beams(model_client: Client) -> None:
    _, answer = await model_client.post("/v1/completions", {**COMPLETION, "logprobs": 1, "length_penalty": 0})
    texts = [choice["text"] for choice in answer["choices"]]
    assert len(set(texts)) == 3
    scores = [sum(choice["logprobs"]["token_logprobs"]) for choice in answer["choices"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["usage"]["completion_tokens"] == sum(len(c["logprobs"]["tokens"]) for c in answer["choices"])
    _, best = await model_client.post("/v1/completions", {**COMPLETION, "n": 1, "best_of": 3, "length_penalty": 0})
    assert [choice["text"] for choice in best["choices"]] == texts[:1]


async def test_a_stream_brings_the_same_texts_at_the_end(model_client: Client) -> None:
    _, answer = await model_client.post("/v1/completions", COMPLETION)
    events = await model_client.stream("/v1/completions", {**COMPLETION, "stream": True})
    texts = ["", "", ""]
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in answer["choices"]]


async def test_chat_searches_too(model_client: Client) -> None:
    body = {"messages": MESSAGES, "max_tokens": 8, "use_beam_search": True, "n": 2, "early_stopping": True}
    _, answer = await model_client.post("/v1/chat/completions", body)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"top_k": 5}, "top_k"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"stop": ["x"]}, "stop"),
        ({"min_tokens": 3}, "min_tokens"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"best_of": 2}, "best_of"),
        ({"length_penalty": 1000}, "length_penalty"),
        ({"early_stopping": "sometimes"}, "early_stopping"),
        ({"use_beam_search": False, "length_penalty": 2}, "length_penalty"),
        ({"use_beam_search": False, "early_stopping": True}, "early_stopping"),
    ],
)
async def test_what_a_search_cannot_honour_is_named(client: Client, fields: dict[str, Any], param: str) -> None:
    status, answer = await client.post("/v1/completions", {**COMPLETION, **fields})
    assert (status, answer["error"]["param"]) == (400, param)


async def test_a_search_that_is_too_wide_is_refused(client: Client) -> None:
    status, answer = await client.post("/v1/completions", {**COMPLETION, "n": 1, "best_of": 120})
    assert status == 400
    assert "beams" in answer["error"]["message"]
