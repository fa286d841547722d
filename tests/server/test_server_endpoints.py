"""Every endpoint against a running server, whole and streamed, on the null backend: each token is the same word."""

import json
from typing import Any

import pytest
from server_process import MODEL, Client, ServerProcess, connect

MESSAGES = [{"role": "user", "content": "Hello there"}]


async def test_small_endpoints(client: Client) -> None:
    assert await client.get("/health") == (200, "")
    assert await client.get("/ping") == (200, "")
    assert (await client.post("/ping"))[0] == 200
    status, version = await client.get("/version")
    assert status == 200
    assert set(version) == {"version"}


async def test_models(client: Client) -> None:
    status, models = await client.get("/v1/models")
    assert status == 200
    assert models["object"] == "list"
    (card,) = models["data"]
    assert card["id"] == card["root"] == MODEL
    assert card["max_model_len"] == 2048
    assert (card["object"], card["parent"]) == ("model", None)
    assert card["permission"][0]["object"] == "model_permission"
    assert await client.get(f"/v1/models/{MODEL}") == (200, card)
    status, answer = await client.get("/v1/models/other/model")
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, 404, "model")


async def test_chat_whole(client: Client) -> None:
    status, answer = await client.post("/v1/chat/completions", {"model": MODEL, "messages": MESSAGES, "max_tokens": 3})
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == MODEL
    (choice,) = answer["choices"]
    message = choice["message"]
    assert (message["role"], message["tool_calls"], message["refusal"]) == ("assistant", [], None)
    assert {"annotations", "audio", "function_call", "reasoning", "reasoning_content"} <= set(message)
    assert message["content"]
    assert choice["index"] == 0
    assert (choice["finish_reason"], choice["stop_reason"], choice["logprobs"]) == ("length", None, None)
    usage = answer["usage"]
    assert usage["completion_tokens"] == 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0
    assert answer["prompt_token_ids"] is None


async def test_chat_stream(client: Client) -> None:
    body = {"messages": MESSAGES, "max_tokens": 5, "n": 2}
    _, whole = await client.post("/v1/chat/completions", body)
    events = await client.stream("/v1/chat/completions", body)
    assert all(event["object"] == "chat.completion.chunk" and "usage" not in event for event in events)
    assert len({event["id"] for event in events}) == 1
    for index in (0, 1):
        choices = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert choices[-1]["finish_reason"] == "length"
        assert "stop_reason" in choices[-1]
        assert all(choice["finish_reason"] is None for choice in choices[:-1])
        text = "".join(choice["delta"]["content"] for choice in choices)
        assert text == whole["choices"][index]["message"]["content"]


async def test_usage_in_streams(client: Client) -> None:
    body: dict[str, Any] = {"prompt": "Hello", "max_tokens": 3, "stream_options": {"include_usage": True}}
    events = await client.stream("/v1/completions", body)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 3
    assert all("usage" not in event for event in events[:-1])
    body["stream_options"]["continuous_usage_stats"] = True
    events = await client.stream("/v1/completions", body)
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == 3
    status, answer = await client.post("/v1/completions", {"prompt": "Hello", "stream_options": {}})
    assert (status, answer["error"]["param"]) == (400, "stream_options")


async def test_completions_take_every_kind_of_prompt(client: Client) -> None:
    _, tokens = await client.post("/tokenize", {"prompt": "Hello world"})
    ids = tokens["tokens"]
    for prompt, count in (("Hello world", 1), (["Hello world", "Bye"], 2), (ids, 1), ([ids, ids[:1]], 2)):
        answer = await client.complete(prompt=prompt, n=2, max_tokens=2)
        assert [choice["index"] for choice in answer["choices"]] == list(range(count * 2))
        assert answer["object"] == "text_completion"
        assert answer["usage"]["completion_tokens"] == count * 4
    assert len((await client.complete(max_tokens=None, prompt=[5] * 2030))["choices"]) == 1


async def test_completion_streams_equal_whole_answers(client: Client) -> None:
    body = {"prompt": ["Hello", "world"], "n": 2, "max_tokens": 4, "echo": True}
    _, whole = await client.post("/v1/completions", body)
    events = await client.stream("/v1/completions", body)
    for choice in whole["choices"]:
        index = choice["index"]
        parts = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert choice["text"].startswith(body["prompt"][index // 2])
        assert parts[-1]["finish_reason"] == choice["finish_reason"] == "length"


async def test_a_stop_string_ends_a_choice(client: Client) -> None:
    text = (await client.complete(max_tokens=8))["choices"][0]["text"]
    word = text[: len(text) // 8]
    assert text == word * 8
    stop = word[-2:] + word[:2]
    whole = await client.complete(max_tokens=8, stop=[stop])
    (choice,) = whole["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert choice["text"] == text.partition(stop)[0]
    events = await client.stream("/v1/completions", {"prompt": "Hello", "max_tokens": 8, "stop": stop})
    assert "".join(event["choices"][0]["text"] for event in events) == choice["text"]
    kept = await client.complete(max_tokens=8, stop=[stop], include_stop_str_in_output=True)
    assert kept["choices"][0]["text"].endswith(stop)


async def test_a_stop_token_ends_a_choice(client: Client) -> None:
    answer = await client.complete(return_token_ids=True)
    token = answer["choices"][0]["token_ids"][0]
    answer = await client.complete(stop_token_ids=[token])
    assert (answer["choices"][0]["finish_reason"], answer["choices"][0]["stop_reason"]) == ("stop", token)


async def test_token_ids_are_returned_when_asked_for(client: Client) -> None:
    body = {"messages": MESSAGES, "max_tokens": 3, "return_token_ids": True}
    _, whole = await client.post("/v1/chat/completions", body)
    events = await client.stream("/v1/chat/completions", body)
    assert len(whole["choices"][0]["token_ids"]) == 3
    assert whole["prompt_token_ids"] == events[0]["prompt_token_ids"]
    assert len(whole["prompt_token_ids"]) == whole["usage"]["prompt_tokens"]
    ids = [token for event in events for token in event["choices"][0].get("token_ids", [])]
    assert ids == whole["choices"][0]["token_ids"]
    completion = await client.complete(return_token_ids=True)
    assert len(completion["choices"][0]["prompt_token_ids"]) == completion["usage"]["prompt_tokens"]


async def test_request_ids(client: Client) -> None:
    headers = {"X-Request-Id": "mine"}
    _, answer = await client.post("/v1/completions", {"prompt": "Hello"}, headers=headers)
    assert answer["id"] == "cmpl-mine"
    assert (await client.complete(request_id="other"))["id"] == "cmpl-other"
    events = await client.stream("/v1/completions", {"prompt": "Hello", "request_id": "other"})
    assert {event["id"] for event in events} == {"cmpl-other"}


async def test_tokenize_and_detokenize(client: Client) -> None:
    text = "Hello, wörld 123!"
    _, answer = await client.post("/tokenize", {"prompt": text, "return_token_strs": True})
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 2048
    _, back = await client.post("/detokenize", {"tokens": answer["tokens"]})
    assert back == {"prompt": text}
    _, chat = await client.post("/tokenize", {"messages": MESSAGES})
    _, back = await client.post("/detokenize", {"tokens": chat["tokens"]})
    assert "<|im_start|>user\nHello there<|im_end|>" in back["prompt"]
    assert back["prompt"].endswith("<|im_start|>assistant\n")
    _, plain = await client.post("/tokenize", {"messages": MESSAGES, "add_generation_prompt": False})
    assert plain["count"] < chat["count"]
    assert chat["token_strs"] is None


async def test_the_template_is_the_models(client: Client) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello there"}]}]
    _, one = await client.post("/tokenize", {"messages": MESSAGES})
    _, other = await client.post("/tokenize", {"messages": parts})
    assert one == other
    goes_on = [*MESSAGES, {"role": "assistant", "content": "Well"}]
    _, answer = await client.post("/tokenize", {"messages": goes_on, "continue_final_message": True})
    _, back = await client.post("/detokenize", {"tokens": answer["tokens"]})
    assert back["prompt"].endswith("<|im_start|>assistant\nWell")
    body = {"messages": goes_on, "continue_final_message": True, "echo": True, "max_tokens": 2}
    _, echoed = await client.post("/v1/chat/completions", body)
    assert echoed["choices"][0]["message"]["content"].startswith("Well")


async def test_a_body_needs_no_content_type(client: Client) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        data = json.dumps({"prompt": "Hello", "max_tokens": 1}).encode()
        status, answer = await client.post("/v1/completions", data=data, headers=headers)
        assert status == 200, answer


async def test_extra_body_is_merged(client: Client) -> None:
    status, answer = await client.post(
        "/v1/completions", {"prompt": "Hello", "extra_body": {"max_tokens": 2, "top_k": 3}}
    )
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
async def test_a_wrong_method_is_a_405(client: Client, path: str) -> None:
    status, answer = await client.get(path)
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (405, 405, "MethodNotAllowedError")


async def test_a_server_without_a_model() -> None:
    """The null backend alone: token ids in, no text out."""
    with ServerProcess({"model": {"model": "null"}}) as server:
        async with connect(server.url) as session:
            client = Client(session)
            answer = await client.complete(prompt=[1, 2, 3], return_token_ids=True)
            assert len(answer["choices"][0]["token_ids"]) == 4
            assert answer["choices"][0]["text"] == ""
            for path, body in (
                ("/v1/completions", {"prompt": "Hello"}),
                ("/v1/completions", {"prompt": [1], "echo": True}),
                ("/v1/chat/completions", {"messages": MESSAGES}),
                ("/tokenize", {"prompt": "Hello"}),
                ("/detokenize", {"tokens": [1]}),
            ):
                status, answer = await client.post(path, body)
                assert status == 400, answer


async def test_invocations_of_sagemaker(client: Client) -> None:
    status, answer = await client.post("/invocations", {"prompt": "Hi", "max_tokens": 2})
    assert (status, answer["object"]) == (200, "text_completion")
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    status, answer = await client.post("/invocations", body)
    assert (status, answer["object"]) == (200, "chat.completion")
    *_, last = await client.stream("/invocations", body)
    assert last["choices"][0]["finish_reason"] == "length"
    status, answer = await client.post("/invocations", {"colour": 1})
    assert (status, "messages, prompt" in answer["error"]["message"]) == (400, True)
