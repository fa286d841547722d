"""allowed_token_ids and bad_words, with the real SmolLM2."""

from typing import Any

import pytest
from server_process import Client

BODY = {"prompt": "The sky is", "max_tokens": 12, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 8, "temperature": 0}


async def tokens_of(client: Client, text: str) -> list[int]:
    _, answer = await client.post("/tokenize", {"prompt": text, "add_special_tokens": False})
    return answer["tokens"]


async def ids(client: Client, **changes: Any) -> list[int]:
    status, answer = await client.post("/v1/completions", {**BODY, "return_token_ids": True, **changes})
    assert status == 200, answer
    return answer["choices"][0]["token_ids"]


async def test_only_allowed_tokens_are_generated(model_client: Client) -> None:
    allowed = await tokens_of(model_client, " red green blue")
    for temperature in (0, 1.5):
        chosen = await ids(model_client, allowed_token_ids=allowed, temperature=temperature, seed=3, logprobs=2)
        assert set(chosen) <= set(allowed)
    many = list(range(1000, 3000))
    assert set(await ids(model_client, allowed_token_ids=many, temperature=1.0, seed=1)) <= set(many)
    status, answer = await model_client.post(
        "/v1/chat/completions", {**CHAT, "allowed_token_ids": allowed, "return_token_ids": True}
    )
    assert status == 200
    assert set(answer["choices"][0]["token_ids"]) <= set(allowed)


async def test_log_probabilities_are_those_without_the_constraint(model_client: Client) -> None:
    first = (await ids(model_client))[0]
    _, free = await model_client.post("/v1/completions", {**BODY, "max_tokens": 1, "logprobs": 5})
    _, bound = await model_client.post(
        "/v1/completions", {**BODY, "max_tokens": 1, "logprobs": 5, "allowed_token_ids": [first, 500]}
    )
    assert free["choices"][0]["logprobs"] == bound["choices"][0]["logprobs"]


async def test_bad_words_do_not_come(model_client: Client) -> None:
    text = "The sky is blue. The sky is"
    _, free = await model_client.post("/v1/completions", {**BODY, "prompt": text})
    word = free["choices"][0]["text"].split()[0].strip(".,")
    _, without = await model_client.post("/v1/completions", {**BODY, "prompt": text, "bad_words": [word]})
    assert word in free["choices"][0]["text"].split()[0]
    assert word not in without["choices"][0]["text"].replace(".", " ").replace(",", " ").split()


async def test_a_word_of_several_tokens_misses_only_its_end(model_client: Client) -> None:
    free = await ids(model_client)
    _, answer = await model_client.post("/detokenize", {"tokens": free[:3]})
    word = answer["prompt"]
    assert (await tokens_of(model_client, word)) == free[:3]
    bound = await ids(model_client, bad_words=[word])
    assert bound[:2] == free[:2]
    assert bound[2] != free[2]


@pytest.mark.parametrize("stream", [False, True])
async def test_constraints_that_leave_nothing_are_the_clients_mistake(model_client: Client, stream: bool) -> None:
    (token,) = await tokens_of(model_client, " blue")
    for changes in (
        {"allowed_token_ids": [token], "bad_words": ["blue"]},
        {"allowed_token_ids": [token], "min_tokens": 2, "stop_token_ids": [token]},
    ):
        status, answer = await model_client.post("/v1/completions", {**BODY, **changes, "stream": stream})
        assert status == 400, answer
        assert "allowed_token_ids" in answer["error"]["message"]
    await model_client.still_serves()
