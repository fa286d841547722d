"""POST /v1/responses: items in, items and events out; what is stored, and what is refused."""

import signal
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from server_process import Client, ServerProcess, connect, until

from octavo.server.errors import ApiError
from octavo.server.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallStart
from octavo.server.responses.items import messages_of
from octavo.server.responses.output import Events, Output, Silence
from octavo.server.responses.store import Store, Stored

QUESTION = "What is the capital of France? Answer in one word."
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TEXT = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


def named_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream; asserts that each is named as its data says, and numbered in order."""
    events = []
    for number, block in enumerate(text.removesuffix("\n\n").split("\n\n")):
        name, data = block.split("\n")
        event = msgspec.json.decode(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        EVENT.validate_python(event)
        events.append(event)
    return events


async def stream(client: Client, **body: Any) -> list[dict[str, Any]]:
    async with client.session.post("/v1/responses", json={**body, "stream": True}) as response:
        assert response.status == 200, await response.text()
        return named_events(await response.text())


async def create(client: Client, **body: Any) -> dict[str, Any]:
    status, answer = await client.post("/v1/responses", {"temperature": 0, "max_output_tokens": 16, **body})
    assert status == 200, answer
    Response.model_validate(answer)
    return answer


async def finished(client: Client, begun: dict[str, Any]) -> dict[str, Any]:
    """A response that is made in the background, when it is done."""

    async def done() -> dict[str, Any] | None:
        _, response = await client.get(f"/v1/responses/{begun['id']}")
        return None if response["status"] == "in_progress" else response

    response: dict[str, Any] = await until(done, 30.0)
    return response


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item.get("content", ()))


def without_repeats(types: list[str]) -> list[str]:
    return [kind for place, kind in enumerate(types) if place == 0 or types[place - 1] != kind]


async def test_a_stream_adds_up_to_the_whole_answer(model_client: Client) -> None:
    whole = await create(model_client, input=QUESTION)
    events = await stream(model_client, input=QUESTION, temperature=0, max_output_tokens=16)
    kinds = without_repeats([event["type"] for event in events])
    assert kinds == ["response.created", "response.in_progress", *TEXT, "response.completed"]
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    last = events[-1]["response"]
    assert text == text_of(last) == text_of(whole) != ""
    assert events[0]["response"]["output"] == []
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert (whole["status"], whole["output"][0]["status"]) == ("completed", "completed")


async def test_an_answer_that_is_cut_is_incomplete(model_client: Client) -> None:
    whole = await create(model_client, input=QUESTION, max_output_tokens=2)
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    events = await stream(model_client, input=QUESTION, temperature=0, max_output_tokens=2)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


async def test_an_answer_may_end_with_the_context(client: Client) -> None:
    answer = await create(client, input="word " * 1990, max_output_tokens=30_000)
    assert answer["status"] == "incomplete"
    assert answer["usage"]["total_tokens"] == 2048


async def test_logprobs_are_the_chats(model_client: Client) -> None:
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = await create(model_client, input=QUESTION, **asked)
    _, chat = await model_client.post(
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
            "max_tokens": 16,
            "logprobs": True,
            "top_logprobs": 2,
        },
    )
    tokens = whole["output"][0]["content"][0]["logprobs"]
    # The token that ends the answer has no text.
    assert tokens == chat["choices"][0]["logprobs"]["content"][:-1]
    events = await stream(model_client, input=QUESTION, temperature=0, max_output_tokens=16, **asked)
    streamed = [entry for event in events if "delta" in event for entry in event["logprobs"]]
    assert streamed == tokens


async def test_a_stored_answer_is_gone_on_with(model_client: Client) -> None:
    first = await create(model_client, input=QUESTION, instructions="You are brief.")
    second = await create(model_client, input="And of Italy?", previous_response_id=first["id"])
    spoken: list[Any] = [{"role": "user", "content": QUESTION}, *first["output"]]
    by_hand = await create(model_client, input=[*spoken, {"role": "user", "content": "And of Italy?"}], store=False)
    assert text_of(second) == text_of(by_hand)
    assert second["usage"]["input_tokens"] == by_hand["usage"]["input_tokens"]
    assert (first["store"], by_hand["store"]) == (True, False)

    path = f"/v1/responses/{second['id']}"
    assert await model_client.get(path) == (200, second)
    _, listed = await model_client.get(f"{path}/input_items?order=asc")
    assert [item["role"] for item in listed["data"]] == ["user", "assistant", "user"]
    _, page = await model_client.get(f"{path}/input_items?order=asc&limit=1&after={listed['data'][0]['id']}")
    assert (page["data"], page["has_more"]) == ([listed["data"][1]], True)
    async with model_client.session.delete(path) as response:
        assert await response.json() == {"id": second["id"], "object": "response", "deleted": True}
    assert (await model_client.get(path))[0] == 404
    assert (await model_client.get(f"/v1/responses/{by_hand['id']}"))[0] == 404


async def test_the_background(model_client: Client) -> None:
    begun = await create(model_client, input="Count.", background=True, max_output_tokens=4, ignore_eos=True)
    assert begun["status"] == "in_progress"
    response = await finished(model_client, begun)
    assert (response["status"], response["usage"]["output_tokens"]) == ("incomplete", 4)

    long = await create(model_client, input="Count.", background=True, max_output_tokens=1500, ignore_eos=True)
    assert (await model_client.post("/v1/responses", {"input": "x", "previous_response_id": long["id"]}))[0] == 400
    status, cancelled = await model_client.post(f"/v1/responses/{long['id']}/cancel")
    assert (status, cancelled["status"]) == (200, "cancelled")
    await model_client.still_serves()
    assert (await model_client.post(f"/v1/responses/{begun['id']}/cancel"))[1]["status"] == "incomplete"
    refused = await create(model_client, input="word " * 3000, background=True)
    response = await finished(model_client, refused)
    assert response["status"] == "failed"
    assert "maximum context length" in response["error"]["message"]


async def test_a_server_that_ends_waits_for_the_background() -> None:
    options = {"enable_responses_store": True, "shutdown_timeout": 20.0}
    with ServerProcess({"null_step_seconds": 0.01}, options) as server:
        async with connect(server.url) as session:
            await create(Client(session), input="Count.", background=True, max_output_tokens=50, ignore_eos=True)
        server.signal(signal.SIGTERM)
        code, out, _ = server.wait()
    assert code == 0
    assert "1 requests finish first" in out


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("input", {}),
        ("input", {"input": []}),
        ("input", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
        ("input", {"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]}),
        ("input", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        ("input", {"input": [{"type": [[]], "role": "user", "content": "x"}]}),
        ("input", {"input": [{"role": [[]], "content": "x"}]}),
        ("input", {"input": [{"role": "user", "content": [{"type": {}}]}]}),
        ("max_output_tokens", {"max_output_tokens": -1}),
        ("temperature", {"temperature": -1}),
        ("tools", {"tools": [{"type": "web_search"}]}),
        ("tool_choice", {"tool_choice": {"type": "web_search"}}),
        ("truncation", {"truncation": "auto"}),
        ("conversation", {"conversation": "conv_1"}),
        ("prompt", {"prompt": {"id": "pmpt_1"}}),
        ("include", {"include": ["everything"]}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("reasoning", {"reasoning": {"summary": "detailed"}}),
        ("text", {"text": {"format": {"type": "xml"}}}),
        ("metadata", {"metadata": {"a": 1}}),
        ("n", {"n": 2}),
        ("stream_options", {"stream_options": {"include_obfuscation": True}}),
        ("background", {"background": True}),
        ("previous_response_id", {"previous_response_id": "resp_1"}),
    ],
)
async def test_a_refusal_names_the_field(client: Client, field: str, body: dict[str, Any]) -> None:
    if body:
        body = {"input": "Hello", **body}
    status, answer = await client.post("/v1/responses", body)
    assert (status, answer["error"]["param"]) == (400, field), answer
    assert field in answer["error"]["message"]


async def test_an_input_that_is_too_long(client: Client) -> None:
    status, answer = await client.post("/v1/responses", {"input": "word " * 3000})
    assert (status, answer["error"]["param"]) == (400, "input")


async def test_without_a_store_nothing_is_stored(client: Client) -> None:
    answer = await create(client, input="Hello", store=True)
    assert answer["store"] is False
    for path in (f"/v1/responses/{answer['id']}", f"/v1/responses/{answer['id']}/input_items"):
        status, refused = await client.get(path)
        assert status == 404
        assert "--enable-responses-store" in refused["error"]["message"]


async def test_a_client_that_leaves_ends_its_answer(long_client: Client) -> None:
    body = {"input": "Hello", "max_output_tokens": 190_000, "ignore_eos": True, "stream": True}
    async with long_client.session.post("/v1/responses", json=body) as response:
        await response.content.readline()
    await long_client.still_serves()


# ---------------------------------------------------------------- input items → messages


def test_what_an_assistant_did_in_one_turn_is_one_message() -> None:
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {
            "type": "reasoning",
            "id": "rs",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Look it up."}],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "One moment."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "time", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "Sun"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "Noon"}]},
        {"type": "message", "role": "assistant", "content": "Sunny at noon."},
    ]
    messages = messages_of(items, "Be kind.", knows_developer=False)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    turn = messages[2]
    assert (turn["reasoning"], turn["content"]) == ("Look it up.", "One moment.")
    assert [call["id"] for call in turn["tool_calls"]] == ["c1", "c2"]
    assert [message["content"] for message in messages[3:]] == ["Sun", "Noon", "Sunny at noon."]


def test_a_developer_is_the_system_where_the_template_knows_none() -> None:
    items = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    assert messages_of(items, "Be brief.", knows_developer=False)[0] == {
        "role": "system",
        "content": "Be brief.\n\nBe kind.",
    }
    assert [message["role"] for message in messages_of(items, None, knows_developer=True)] == ["developer", "user"]


@pytest.mark.parametrize("content", ["{}", "bm8", None, "\ud83d"])
def test_sealed_reasoning_must_be_ours(content: Any) -> None:
    item = {"type": "reasoning", "summary": [], "encrypted_content": content or "?"}
    with pytest.raises(ApiError, match=r"input\[0\]"):
        messages_of([item], None, knows_developer=False)


# ---------------------------------------------------------------- parts → items and events

PARTS: list[list[Part]] = [
    [Reasoning("I look"), Reasoning(" it up.")],
    [Content("One "), Content("moment.")],
    [ToolCallStart(0, "c1", "weather"), ToolCallArguments(0, '{"city":')],
    [ToolCallArguments(0, '"Rome"}'), ToolCallStart(1, "c2", "time"), ToolCallArguments(1, "{}")],
]
GOLDEN = [
    "response.output_item.added reasoning",
    "response.content_part.added",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.content_part.done",
    "response.output_item.done reasoning",
    "response.output_item.added message",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done message",
    "response.output_item.added function_call",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done function_call",
    "response.output_item.added function_call",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done function_call",
]


def test_the_events_of_reasoning_text_and_calls() -> None:
    events, silence = Events(), Silence()
    outputs = [Output("resp_1", each, logprobs=False, sealed=True) for each in (events, silence)]
    for output in outputs:
        for parts in PARTS:
            output.add(parts)
        output.finish(cut=False)
    assert silence.out == []
    told = named_events(b"".join(events.out).decode())
    assert (
        without_repeats([f"{event['type']} {event.get('item', {}).get('type', '')}".strip() for event in told])
        == GOLDEN
    )
    streamed, whole = (msgspec.to_builtins(output.items) for output in outputs)
    assert streamed == whole == [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert whole[2]["arguments"] == '{"city":"Rome"}'
    # The items are input as they are.
    messages = messages_of(whole, None, knows_developer=False)
    assert messages[0]["reasoning"] == "I look it up."
    del whole[0]["content"]
    assert messages_of(whole, None, knows_developer=False) == messages


def test_an_empty_answer_is_an_empty_message() -> None:
    output = Output("resp_1", Events(), logprobs=False, sealed=False)
    output.finish(cut=False)
    assert [(item["type"], item["content"][0]["text"]) for item in msgspec.to_builtins(output.items)] == [
        ("message", "")
    ]


# ---------------------------------------------------------------- the store


def test_the_store_forgets_what_is_longest_unused() -> None:
    store = Store(100)
    for name in "abc":
        store.put(name, Stored(b"x" * 30, b"", b""))
    assert store.get("a") is not None
    store.put("d", Stored(b"x" * 40, b"", b""))
    assert [name for name in "abcd" if store.get(name)] == ["a", "c", "d"]
    assert store.size == 100
    store.put("a", Stored(b"x" * 10, b"", b""))
    assert store.size == 80
    store.put("e", Stored(b"x" * 101, b"", b""))
    assert store.get("e") is None
    assert len(store) == 3
