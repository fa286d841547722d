"""Log-probabilities over HTTP: of prompts, echoed or listed, of named tokens, of whole vocabularies; real SmolLM2."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from server_process import Client, ServerProcess, connect

PROMPT = "The quick brown fox jumps over the lazy dog. Ça va?"
BODY = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 3, "temperature": 0}


async def complete(client: Client, **changes: Any) -> Any:
    status, answer = await client.post("/v1/completions", {**BODY, **changes})
    assert status == 200, answer
    return answer


async def test_prompt_logprobs_of_a_completion(model_client: Client) -> None:
    (choice,) = (await complete(model_client, prompt_logprobs=2, return_token_ids=True))["choices"]
    listed = choice["prompt_logprobs"]
    ids = choice["prompt_token_ids"]
    assert listed[0] is None
    assert len(listed) == len(ids)
    for token, entries in zip(ids[1:], listed[1:], strict=True):
        assert next(iter(entries)) == str(token)
        assert len(entries) in (2, 3)
        ranks = [entry["rank"] for entry in entries.values()]
        assert {1, 2} <= set(ranks) | {ranks[0]}
        for entry in entries.values():
            assert set(entry) == {"logprob", "rank", "decoded_token"}
            assert entry["logprob"] <= 0
    assert "".join(entries[str(token)]["decoded_token"] for token, entries in zip(ids[1:4], listed[1:4], strict=True))
    # The generated text is that of a request without them, which may read the prefix cache.
    assert choice["text"] == (await complete(model_client))["choices"][0]["text"]


async def test_prompt_logprobs_of_a_chat(model_client: Client) -> None:
    status, answer = await model_client.post(
        "/v1/chat/completions", {**CHAT, "prompt_logprobs": 0, "logprobs": True, "top_logprobs": 2}
    )
    assert status == 200, answer
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    assert all(len(entry) == 1 for entry in answer["prompt_logprobs"][1:])
    assert all(len(entry["top_logprobs"]) == 2 for entry in answer["choices"][0]["logprobs"]["content"])
    _, without = await model_client.post("/v1/chat/completions", CHAT)
    assert without["prompt_logprobs"] is None


@pytest.mark.parametrize("as_ids", [False, True])
async def test_an_echoed_prompt_has_log_probabilities(model_client: Client, as_ids: bool) -> None:
    _, tokens = await model_client.post("/tokenize", {"prompt": PROMPT})
    prompt = tokens["tokens"] if as_ids else PROMPT
    answer = await complete(model_client, prompt=prompt, echo=True, logprobs=2, prompt_logprobs=1)
    (choice,) = answer["choices"]
    arrays = choice["logprobs"]
    count = tokens["count"] + 4
    assert {len(values) for values in arrays.values()} == {count}
    assert choice["text"].startswith(PROMPT)
    assert (arrays["token_logprobs"][0], arrays["top_logprobs"][0]) == (None, None)
    for text, offset in zip(arrays["tokens"], arrays["text_offset"], strict=True):
        assert "\ufffd" in text or choice["text"].startswith(text, offset)
    listed = choice["prompt_logprobs"]
    for index in range(1, count):
        logprob, top = arrays["token_logprobs"][index], arrays["top_logprobs"][index]
        assert top[arrays["tokens"][index]] == logprob
        assert len(top) in (2, 3) or "\ufffd" in top
        if index < len(listed):
            assert listed[index][str(tokens["tokens"][index])]["logprob"] == logprob
            assert len(listed[index]) in (1, 2)


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_scoring_as_evaluation_harnesses_do_it(model_client: Client, max_tokens: int) -> None:
    """Prompts in a batch, echoed with their log-probabilities, with one token or none behind them."""
    prompts = ["The capital of France is Paris", "The capital of France is Rome"]
    answer = await complete(model_client, prompt=prompts, echo=True, logprobs=1, max_tokens=max_tokens, seed=1)
    sums = []
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        arrays = choice["logprobs"]
        _, tokens = await model_client.post("/tokenize", {"prompt": prompt})
        assert len(arrays["tokens"]) == tokens["count"] + max_tokens
        assert choice["finish_reason"] == "length"
        assert choice["text"] == "".join(arrays["tokens"])
        sums.append(sum(arrays["token_logprobs"][1 : tokens["count"]]))
    assert sums[0] > sums[1]
    assert answer["usage"]["completion_tokens"] == 2 * max_tokens


async def test_an_echo_alone(model_client: Client) -> None:
    answer = await complete(model_client, echo=True, max_tokens=0, return_token_ids=True)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["token_ids"], choice["logprobs"]) == (PROMPT, [], None)
    assert choice["finish_reason"] == "length"


async def test_named_tokens(model_client: Client) -> None:
    ids = [500, 3, 40_000]
    answer = await complete(model_client, logprob_token_ids=ids, return_tokens_as_token_ids=True)
    arrays = answer["choices"][0]["logprobs"]
    for token, logprob, top in zip(arrays["tokens"], arrays["token_logprobs"], arrays["top_logprobs"], strict=True):
        assert set(top) == {token, *(f"token_id:{token}" for token in ids)}
        assert top[token] == logprob
    _, chat = await model_client.post("/v1/chat/completions", {**CHAT, "logprobs": True, "logprob_token_ids": ids})
    for entry in chat["choices"][0]["logprobs"]["content"]:
        assert len(entry["top_logprobs"]) == 3
    events = await model_client.stream(
        "/v1/chat/completions", {**CHAT, "logprob_token_ids": ids, "return_tokens_as_token_ids": True}
    )
    streamed = [entry for event in events for entry in (event["choices"][0]["logprobs"] or {}).get("content", [])]
    assert [[one["token"] for one in entry["top_logprobs"]] for entry in streamed] == [
        [f"token_id:{token}" for token in ids] for _ in streamed
    ]
    assert streamed


@pytest.fixture(scope="module")
def unlimited_server() -> Iterator[ServerProcess]:
    with ServerProcess({"backend": "model", "scheduler": {"max_logprobs": -1}}) as server:
        yield server


@pytest_asyncio.fixture
async def unlimited(unlimited_server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(unlimited_server.url) as session:
        yield Client(session)


async def test_the_whole_vocabulary(unlimited: Client) -> None:
    body = {"max_tokens": 1, "logprobs": -1, "prompt": "Hi there", "return_tokens_as_token_ids": True}
    (choice,) = (await complete(unlimited, **body))["choices"]
    (top,) = choice["logprobs"]["top_logprobs"]
    assert len(top) == 49152
    status, answer = await unlimited.post(
        "/v1/chat/completions", {**CHAT, "max_tokens": 1, "logprobs": True, "top_logprobs": -1}
    )
    assert status == 200
    assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 49152
    for changes, name in (
        ({"logprobs": 49153}, "logprobs"),
        ({"logprobs": 10**9}, "logprobs"),
        ({"logprobs": -2}, "logprobs"),
        ({"prompt_logprobs": -1, "prompt": [5] * 1000}, "prompt_logprobs"),
    ):
        status, answer = await unlimited.post("/v1/completions", {**BODY, **changes})
        assert (status, answer["error"]["param"]) == (400, name), answer
    await unlimited.still_serves()


async def test_prompts_are_scored_beside_others(model_client: Client) -> None:
    """Neighbours' tokens do not change, and neither do the scores."""
    import asyncio

    seeded = {"temperature": 1.0, "seed": 5, "max_tokens": 30, "prompt": "Once upon a time"}
    alone = (await complete(model_client, **seeded))["choices"][0]["text"]
    scores = (await complete(model_client, prompt_logprobs=1))["choices"][0]["prompt_logprobs"]
    answers = await asyncio.gather(
        *(complete(model_client, **seeded) for _ in range(4)),
        *(complete(model_client, prompt_logprobs=1) for _ in range(4)),
    )
    assert {answer["choices"][0]["text"] for answer in answers[:4]} == {alone}
    assert all(answer["choices"][0]["prompt_logprobs"] == scores for answer in answers[4:])
