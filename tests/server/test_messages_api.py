"""POST /v1/messages: Anthropic's blocks and events over the chat engine, and its shape of errors."""

from typing import Any, cast

import msgspec
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter
from server_process import Client

from octavo.server.anthropic.blocks import messages_of
from octavo.server.anthropic.output import Output
from octavo.server.anthropic.protocol import InputMessage
from octavo.server.anthropic.request import messages_request, to_chat
from octavo.server.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallStart

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def named_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream; asserts that each is named as its data says."""
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = msgspec.json.decode(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] != "ping":
            EVENT.validate_python(event)
        events.append(event)
    return events


async def create(client: Client, **body: Any) -> dict[str, Any]:
    body = {"messages": QUESTION, "max_tokens": 16, "temperature": 0, **body}
    status, answer = await client.post("/v1/messages", body)
    assert status == 200, answer
    Message.model_validate(answer)
    return answer


async def test_a_stream_adds_up_to_the_whole_answer(model_client: Client) -> None:
    whole = await create(model_client)
    body = {"messages": QUESTION, "max_tokens": 16, "temperature": 0, "stream": True}
    async with model_client.session.post("/v1/messages", json=body) as response:
        assert response.status == 200
        events = named_events(await response.text())
    deltas = [event for event in events if event["type"] == "content_block_delta"]
    assert [event["type"] for event in events if event not in deltas] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert "".join(event["delta"]["text"] for event in deltas) == whole["content"][0]["text"] != ""
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("end_turn", None)
    usage = events[-2]["usage"]
    total = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert total == events[0]["message"]["usage"]["input_tokens"]
    assert usage["output_tokens"] == whole["usage"]["output_tokens"]
    _, counted = await model_client.post("/v1/messages/count_tokens", {"messages": QUESTION})
    assert counted == {"input_tokens": total}


async def test_why_an_answer_ended(model_client: Client) -> None:
    cut = await create(model_client, max_tokens=2)
    assert cut["stop_reason"] == "max_tokens"
    stopped = await create(model_client, stop_sequences=["Paris", "Rome"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "Paris")
    assert "Paris" not in stopped["content"][0]["text"]


async def test_an_answer_may_end_with_the_context(client: Client) -> None:
    prompt = [{"role": "user", "content": "word " * 1990}]
    answer = await create(client, messages=prompt, max_tokens=30_000)
    assert answer["stop_reason"] == "model_context_window_exceeded"
    usage = answer["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["output_tokens"] == 2048


async def test_a_last_message_of_the_assistants_is_gone_on_with(model_client: Client) -> None:
    whole = (await create(model_client))["content"][0]["text"]
    begun = await create(model_client, messages=[*QUESTION, {"role": "assistant", "content": whole[:11]}])
    assert whole[:11] + begun["content"][0]["text"] == whole


async def test_system_and_blocks_are_the_chats(model_client: Client) -> None:
    block = {"type": "text", "text": QUESTION[0]["content"], "cache_control": {"type": "ephemeral"}}
    system = [{"type": "text", "text": "You are terse."}]
    answer = await create(model_client, messages=[{"role": "user", "content": [block]}], system=system)
    chat = {
        "messages": [{"role": "system", "content": "You are terse."}, *QUESTION],
        "max_tokens": 16,
        "temperature": 0,
    }
    _, expected = await model_client.post("/v1/chat/completions", chat)
    assert answer["content"][0]["text"] == expected["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("messages", {"messages": []}),
        ("messages", {"messages": [{"role": "tool", "content": "x"}]}),
        ("messages[0].content[0]", {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}),
        ("tool_use_id", {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]}),
        ("max_tokens", {"max_tokens": None}),
        ("max_tokens", {"max_tokens": 0}),
        ("context length", {"messages": [{"role": "user", "content": "word " * 3000}]}),
        ("temperature", {"temperature": -1}),
        ("stop_sequences", {"stop_sequences": [""]}),
        ("tools", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        ("tool_choice", {"tool_choice": {"type": "tool"}}),
        ("thinking", {"thinking": {"type": "enabled"}}),
        ("context_management", {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}),
        ("container", {"container": "c"}),
        ("mcp_servers", {"mcp_servers": [{}]}),
        ("n", {"n": 2}),
    ],
)
async def test_a_refusal_names_the_field(client: Client, field: str, body: dict[str, Any]) -> None:
    status, answer = await client.post("/v1/messages", {"messages": QUESTION, "max_tokens": 4, **body})
    assert (status, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error"), answer
    assert field in answer["error"]["message"]


async def test_other_errors_have_the_same_shape(client: Client) -> None:
    body = {"messages": QUESTION, "max_tokens": 4, "model": "claude"}
    status, answer = await client.post("/v1/messages", body)
    assert (status, answer["error"]["type"]) == (404, "not_found_error")
    status, answer = await client.post("/v1/messages/count_tokens", data=b"[")
    assert (status, answer["type"]) == (400, "error")


async def test_what_asks_for_nothing_is_taken(client: Client) -> None:
    keep = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    await create(client, metadata={"user_id": "u"}, service_tier="auto", context_management=keep, tools=[])


# ---------------------------------------------------------------- blocks → messages


def read(*messages: tuple[str, Any], system: Any = None) -> list[dict[str, Any]]:
    return messages_of([InputMessage(cast(Any, role), content) for role, content in messages], system)


def test_tool_blocks_are_calls_and_tool_messages() -> None:
    messages = read(
        ("user", "Weather?"),
        (
            "assistant",
            [
                {"type": "thinking", "thinking": "Look it up.", "signature": "s"},
                {"type": "text", "text": "One moment."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "t2", "name": "time", "input": {}},
            ],
        ),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "Sun"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no clock", "is_error": True},
                {"type": "text", "text": "Well?"},
            ],
        ),
    )
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    turn = messages[1]
    assert (turn["reasoning"], turn["content"]) == ("Look it up.", "One moment.")
    assert [call["function"]["arguments"] for call in turn["tool_calls"]] == ['{"city":"Rome"}', "{}"]
    assert [message["content"] for message in messages[2:]] == ["Sun", "Error: no clock", "Well?"]


def test_thinking_is_the_chats() -> None:
    body = {"messages": QUESTION, "max_tokens": 4, "thinking": {"type": "disabled"}}
    assert to_chat(messages_request(body)).chat_template_kwargs == {"enable_thinking": False}


# ---------------------------------------------------------------- parts → blocks and events

PARTS: list[Part] = [
    *(Reasoning("I look"), Reasoning(" it up.")),
    *(Content("One "), Content("moment.")),
    *(ToolCallStart(0, "t1", "weather"), ToolCallArguments(0, '{"city":'), ToolCallArguments(0, '"Rome"}')),
    ToolCallStart(1, "t2", "time"),
]


def test_the_events_of_thinking_text_and_calls() -> None:
    streamed, whole = Output("s", streamed=True), Output("s", streamed=False)
    for output in (streamed, whole):
        for part in PARTS:
            output.add(part)
        output.close()
    assert whole.out == []
    blocks = msgspec.to_builtins(whole.blocks)
    assert msgspec.to_builtins(streamed.blocks) == blocks
    events = named_events(b"".join(streamed.out).decode())
    told = [
        (event["type"].removeprefix("content_block_"), event["index"])
        for place, event in enumerate(events)
        if place == 0 or (event["type"], event["index"]) != (events[place - 1]["type"], events[place - 1]["index"])
    ]
    assert told == [
        *(("start", 0), ("delta", 0), ("stop", 0)),
        *(("start", 1), ("delta", 1), ("stop", 1)),
        *(("start", 2), ("delta", 2), ("stop", 2)),
        *(("start", 3), ("stop", 3)),
    ]
    texts = ["", "", "", ""]
    for event in events:
        if event["type"] == "content_block_delta" and event["delta"]["type"] != "signature_delta":
            texts[event["index"]] += next(value for name, value in event["delta"].items() if name != "type")
    assert texts == ["I look it up.", "One moment.", '{"city":"Rome"}', ""]
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.get("input") for block in blocks] == [None, None, {"city": "Rome"}, {}]
    # The blocks are input as they are.
    read(
        ("user", "x"),
        ("assistant", blocks),
    )
