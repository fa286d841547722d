"""Tools, reasoning and schemas through the Responses and the Messages API, by the OpenAI and the Anthropic SDK.

SmolLM2 calls no tools by itself, but it goes on with what it is shown: so the conversation shows calls.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import openai
import pydantic
import pytest
from server_process import MODEL, ServerProcess

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
THOUGHT = "<think>\nIt is sunny.\n</think>\n\nSunny."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION: Any = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": SCHEMA}
TOOL: Any = {"name": "weather", "description": "Tells it.", "input_schema": SCHEMA}


def shown(text: str) -> Any:
    """A conversation in which the assistant has said `text` twice."""
    turn = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": text}]
    return [*turn, *turn, turn[0]]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    options = {"tool_call_parser": "hermes", "reasoning_parser": "qwen3"}
    with ServerProcess({"backend": "model"}, options) as process:
        yield process


@pytest.fixture
def openai_client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def anthropic_client(server: ServerProcess) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def test_a_function_call_and_its_output(openai_client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "tools": [FUNCTION], "temperature": 0, "max_output_tokens": 60}
    whole = openai_client.responses.create(input=shown(CALL), **asked)
    [call] = whole.output
    assert call.type == "function_call"
    assert (call.name, call.status) == ("weather", "completed")
    assert set(json.loads(call.arguments)) == {"city"}
    with openai_client.responses.stream(input=shown(CALL), **asked) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        [streamed] = stream.get_final_response().output
    assert streamed.type == "function_call"
    assert "".join(deltas) == streamed.arguments == call.arguments
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
    spoken = [*shown(CALL), call.to_dict(), output]
    assert openai_client.responses.create(input=spoken, **asked).output


def test_a_tool_use_and_its_result(anthropic_client: anthropic.Anthropic) -> None:
    asked: Any = {"model": MODEL, "tools": [TOOL], "max_tokens": 60, "extra_body": {"temperature": 0}}
    whole = anthropic_client.messages.create(messages=shown(CALL), **asked)
    [call] = whole.content
    assert call.type == "tool_use"
    assert (call.name, set(call.input), whole.stop_reason) == ("weather", {"city"}, "tool_use")
    with anthropic_client.messages.stream(messages=shown(CALL), **asked) as stream:
        final = stream.get_final_message()
    [streamed] = final.content
    assert streamed.type == "tool_use"
    assert (streamed.name, streamed.input, final.stop_reason) == (call.name, call.input, "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny"}
    answered: Any = [{"role": "assistant", "content": [call.to_dict()]}, {"role": "user", "content": [result]}]
    assert anthropic_client.messages.create(messages=[*shown(CALL), *answered], **asked).content
    counted = anthropic_client.messages.count_tokens(model=MODEL, messages=shown(CALL), tools=[TOOL])
    assert counted.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_a_function_call_can_be_demanded(openai_client: openai.OpenAI, choice: Any) -> None:
    asked: Any = {"model": MODEL, "input": "Rome.", "tools": [FUNCTION], "temperature": 0, "max_output_tokens": 60}
    [call] = openai_client.responses.create(tool_choice=choice, **asked).output
    assert call.type == "function_call"
    assert (call.name, set(json.loads(call.arguments))) == ("weather", {"city"})


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_tool_use_can_be_demanded(anthropic_client: anthropic.Anthropic, choice: Any) -> None:
    said: Any = [{"role": "user", "content": "Rome."}]
    asked: Any = {"model": MODEL, "messages": said, "max_tokens": 60, "extra_body": {"temperature": 0}}
    message = anthropic_client.messages.create(tools=[TOOL], tool_choice=choice, **asked)
    [call] = message.content
    assert call.type == "tool_use"
    assert (call.name, set(call.input), message.stop_reason) == ("weather", {"city"}, "tool_use")


def test_reasoning_is_an_item(openai_client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "temperature": 0, "max_output_tokens": 60}
    whole = openai_client.responses.create(input=shown(THOUGHT), include=["reasoning.encrypted_content"], **asked)
    thought, message = whole.output
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert "sunny" in thought.content[0].text
    assert message.type == "message"
    assert whole.output_text.strip() == "Sunny."
    assert whole.usage is not None
    assert 0 < whole.usage.output_tokens_details.reasoning_tokens < whole.usage.output_tokens
    with openai_client.responses.stream(input=shown(THOUGHT), **asked) as stream:
        thinking = [event.delta for event in stream if event.type == "response.reasoning_text.delta"]
        assert stream.get_final_response().output_text == whole.output_text
    assert "".join(thinking) == thought.content[0].text
    # Reasoning goes back as the client got it, sealed or in the open.
    sealed = {"type": "reasoning", "id": thought.id, "summary": [], "encrypted_content": thought.encrypted_content}
    for kept in (thought.to_dict(), sealed):
        spoken: Any = [*shown(THOUGHT), kept, message.to_dict(), {"role": "user", "content": "And now?"}]
        assert openai_client.responses.create(input=spoken, **asked).output


class City(pydantic.BaseModel):
    name: Literal["Rome", "Paris"]
    large: bool


def test_a_schema_is_enforced(openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic) -> None:
    response = openai_client.responses.parse(model=MODEL, input="Rome?", text_format=City, max_output_tokens=200)
    assert isinstance(response.output_parsed, City)
    message = anthropic_client.messages.parse(
        model=MODEL, messages=[{"role": "user", "content": "Rome?"}], output_format=City, max_tokens=200
    )
    assert isinstance(message.parsed_output, City)


def test_a_schema_that_is_none_is_refused(openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic) -> None:
    nonsense: Any = {"type": "json_schema", "schema": {"type": "nonsense"}}
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client.responses.create(model=MODEL, input="Rome?", text={"format": {"name": "x", **nonsense}})
    assert refused.value.param == "text.format"
    with pytest.raises(anthropic.BadRequestError, match=r"output_config\.format"):
        anthropic_client.messages.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Rome?"}],
            output_config={"format": nonsense},
            max_tokens=8,
        )


def test_thinking_is_a_block(anthropic_client: anthropic.Anthropic) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 60, "extra_body": {"temperature": 0}}
    whole = anthropic_client.messages.create(messages=shown(THOUGHT), **asked)
    thought, message = whole.content
    assert thought.type == "thinking"
    assert message.type == "text"
    assert "sunny" in thought.thinking
    with anthropic_client.messages.stream(messages=shown(THOUGHT), **asked) as stream:
        final = stream.get_final_message()
    assert final.content[0].to_dict() == {**thought.to_dict(), "signature": final.id}
    omitted = anthropic_client.messages.create(
        messages=shown(THOUGHT), thinking={"type": "adaptive", "display": "omitted"}, **asked
    )
    assert [block.type for block in omitted.content] == ["text"]
    back: Any = {"role": "assistant", "content": [block.to_dict() for block in whole.content]}
    spoken = [*shown(THOUGHT), back, {"role": "user", "content": "And now?"}]
    assert anthropic_client.messages.create(messages=spoken, **asked).content
