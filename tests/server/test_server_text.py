"""Fields that concern a request's text: cut prompts, intervals, the best of several, repetitions, timeouts."""

from typing import Any

import pytest
from server_process import LONG, MODEL, Client, ServerProcess, connect

from octavo import LLM, SamplingParams

GREEDY = {"temperature": 0, "ignore_eos": True, "max_tokens": 12}


async def test_a_prompt_is_cut_on_the_side_that_is_asked_for(client: Client) -> None:
    ids = list(range(100, 160))
    for side, expected in (("left", ids[-5:]), ("right", ids[:5])):
        answer = await client.complete(
            prompt=ids, truncate_prompt_tokens=5, truncation_side=side, return_token_ids=True
        )
        assert answer["choices"][0]["prompt_token_ids"] == expected
        assert answer["usage"]["prompt_tokens"] == 5
    # Of 2,048 tokens, -1 leaves room for the answer.
    answer = await client.complete(prompt="word " * 5000, max_tokens=48, truncate_prompt_tokens=-1)
    assert answer["usage"] | {"prompt_tokens_details": None} == {
        "prompt_tokens": 2000,
        "total_tokens": 2048,
        "completion_tokens": 48,
        "prompt_tokens_details": None,
    }
    status, answer = await client.post("/v1/completions", {"prompt": "Hi", "echo": True, "truncate_prompt_tokens": 1})
    assert (status, answer["error"]["param"]) == (400, "echo")


async def test_an_interval_gives_fewer_chunks_and_the_same_text(model_client: Client) -> None:
    body = {"prompt": "The capital of France is", **GREEDY}
    whole = (await model_client.complete(**body))["choices"][0]["text"]
    events = await model_client.stream("/v1/completions", {**body, "stream_interval": 5})
    assert "".join(event["choices"][0]["text"] for event in events) == whole
    # 1 + 5 + 5 + 1 tokens; chunks that wait for the server to write them are one.
    assert len(events) <= 4


async def test_the_best_of_several_are_returned(model_client: Client) -> None:
    body = {"prompt": "My favourite colour is", "seed": 7, "max_tokens": 6, "logprobs": 0}
    made = (await model_client.complete(**body, n=4))["choices"]
    answer = await model_client.complete(**body, n=2, best_of=4)

    def mean(choice: dict[str, Any]) -> float:
        logprobs = choice["logprobs"]["token_logprobs"]
        return sum(logprobs) / len(logprobs)

    best = sorted(made, key=mean, reverse=True)[:2]
    assert [choice["text"] for choice in answer["choices"]] == [choice["text"] for choice in best]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]


async def test_a_choice_that_repeats_itself_ends(client: Client) -> None:
    # The null backend samples one token all the time.
    limits = {"max_pattern_size": 3, "min_pattern_size": 1, "min_count": 4}
    answer = await client.complete(max_tokens=100, repetition_detection=limits)
    choice = answer["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "repetition_detected")
    assert answer["usage"]["completion_tokens"] == 4
    await client.still_serves()


async def test_a_request_ends_at_its_timeout(long_client: Client) -> None:
    for timeout in (0, -1):
        status, answer = await long_client.post("/v1/completions", {**LONG, "timeout": timeout})
        assert (status, answer["error"]["param"]) == (400, "timeout")
    status, answer = await long_client.post("/v1/completions", {**LONG, "timeout": 0.2})
    assert (status, answer["error"]["type"]) == (408, "RequestTimeoutError")
    assert "0.2 seconds" in answer["error"]["message"]
    events = await long_client.stream("/v1/completions", {**LONG, "timeout": 1.5})
    assert events[0]["choices"][0]["text"]
    assert events[-1]["error"]["code"] == 408
    await long_client.still_serves()


async def test_the_server_has_defaults_of_its_own(tmp_path: Any) -> None:
    file = tmp_path / "sampling.json"
    file.write_text('{"max_new_tokens": 9, "temperature": 0.3}')
    model = {"model": MODEL, "max_model_len": 2048}
    config = {"generation_config": str(file), "override_generation_config": {"max_new_tokens": 7}}
    with ServerProcess(
        {"model": {**model, **config}, "null_step_seconds": 0.02}, {"stream_interval": 3, "request_timeout": 5}
    ) as server:
        async with connect(server.url) as session:
            client = Client(session)
            assert len(await client.stream("/v1/completions", {"prompt": "Hi"})) <= 3
            _, answer = await client.post("/v1/completions", {"prompt": "Hi"})
            assert answer["usage"]["completion_tokens"] == 7


def test_llm_has_the_same_parameters() -> None:
    llm = LLM(MODEL, max_model_len=512, num_gpu_blocks_override=64)
    params = SamplingParams(temperature=0, max_tokens=200, truncate_prompt_tokens=4, ignore_eos=True)
    params.repetition_detection = {"max_pattern_size": 64, "min_count": 3}
    [output] = llm.generate("one two three four five six seven", params, use_tqdm=False)
    assert len(output.prompt_token_ids) == 4
    assert output.outputs[0].stop_reason in ("repetition_detected", None)
    made = llm.generate("The sky is", SamplingParams(n=3, seed=3, max_tokens=5, logprobs=0), use_tqdm=False)[0]
    [best] = llm.generate("The sky is", SamplingParams(best_of=3, seed=3, max_tokens=5), use_tqdm=False)[0].outputs
    most_probable = max(made.outputs, key=lambda choice: choice.cumulative_logprob or 0.0)
    assert best.text == most_probable.text
    with pytest.raises(ValueError, match="best_of"):
        SamplingParams(n=2, best_of=1)
    llm.shutdown()
