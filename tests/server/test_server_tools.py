"""Tools and reasoning through the OpenAI SDK: forced by grammar, or as the model is made to write.

SmolLM2 was not trained to call tools; a `guided_grammar` makes it write what models that were would write.
"""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from server_process import ServerProcess

QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"$ref": "#/$defs/Unit"}},
                "required": ["city", "unit"],
                "additionalProperties": False,
                "$defs": {"Unit": {"enum": ["C", "F"]}},
            },
        },
    },
    {"type": "function", "function": {"name": "get_time"}},
]


@pytest.fixture(scope="module")
def tools_client() -> Iterator[openai.OpenAI]:
    options = {"tool_call_parser": "hermes", "reasoning_parser": "qwen3", "trust_request_chat_template": True}
    with ServerProcess({"backend": "model"}, options) as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    """One message, whole."""
    settings = {"model": client.models.list().data[0].id, "messages": QUESTION, "max_tokens": 64, "temperature": 0}
    return client.chat.completions.create(**{**settings, **fields})


def ask_streamed(client: openai.OpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    return list(ask(client, stream=True, stream_options={"include_usage": True}, **fields))


def streamed(chunks: list[ChatCompletionChunk]) -> dict[str, Any]:
    """What the deltas say together."""
    out: dict[str, Any] = {"content": "", "reasoning": "", "reasoning_content": "", "calls": [], "finish": None}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        delta = choice.delta
        out["content"] += delta.content or ""
        for name in ("reasoning", "reasoning_content"):
            out[name] += getattr(delta, name, None) or ""
        for call in delta.tool_calls or []:
            if call.id is not None:
                assert call.index == len(out["calls"])
                assert call.function is not None
                out["calls"].append([call.function.name, ""])
            assert call.function is not None
            out["calls"][call.index][1] += call.function.arguments or ""
        out["finish"] = choice.finish_reason or out["finish"]
    return out


def whole(answer: Any) -> dict[str, Any]:
    [choice] = answer.choices
    message = choice.message
    return {
        "content": message.content or "",
        "reasoning": message.reasoning or "",
        "reasoning_content": message.reasoning_content or "",
        "calls": [[call.function.name, call.function.arguments] for call in message.tool_calls or []],
        "finish": choice.finish_reason,
    }


def both(client: openai.OpenAI, **fields: Any) -> dict[str, Any]:
    """The whole answer, which the streamed one has to equal."""
    answer = whole(ask(client, **fields))
    assert streamed(ask_streamed(client, **fields)) == answer
    return answer


def check_weather(arguments: str) -> None:
    values = json.loads(arguments)
    assert set(values) == {"city", "unit"}
    assert values["unit"] in ("C", "F")
    assert len(values["city"]) <= 12


def test_a_named_function_is_called(tools_client: openai.OpenAI) -> None:
    answer = both(tools_client, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "get_weather"}})
    [[name, arguments]] = answer["calls"]
    assert name == "get_weather"
    check_weather(arguments)
    assert (answer["content"], answer["finish"]) == ("", "stop")


def test_a_call_is_required(tools_client: openai.OpenAI) -> None:
    answer = both(tools_client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    [[name, arguments]] = answer["calls"]
    check_weather(arguments) if name == "get_weather" else json.loads(arguments)
    assert (answer["content"], answer["finish"]) == ("", "tool_calls")


def test_allowed_tools(tools_client: openai.OpenAI) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    answer = both(tools_client, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    assert answer["calls"] == [["get_time", "{}"]]


def test_functions_of_the_older_api(tools_client: openai.OpenAI) -> None:
    functions = [tool["function"] for tool in TOOLS]
    answer = ask(tools_client, functions=functions, function_call={"name": "get_weather"})
    call = answer.choices[0].message.function_call
    assert call.name == "get_weather"
    check_weather(call.arguments)
    chunks = ask_streamed(tools_client, functions=functions, function_call={"name": "get_weather"})
    deltas = [choice.delta.function_call for chunk in chunks for choice in chunk.choices if choice.delta.function_call]
    assert deltas[0].name == "get_weather"
    assert "".join(delta.arguments or "" for delta in deltas) == call.arguments


def writes(text: str) -> dict[str, Any]:
    """Makes the model write this."""
    return {"extra_body": {"guided_grammar": f"start: {json.dumps(text)}"}, "max_tokens": 200}


CALLS = (
    '<think>\nHm.\n</think>\n\nLet me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
    '</tool_call>\n<tool_call>{"name": "get_time"}</tool_call>'
)


def test_the_model_calls_and_reasons(tools_client: openai.OpenAI) -> None:
    answer = both(tools_client, tools=TOOLS, **writes(CALLS))
    assert answer["calls"] == [["get_weather", '{"city": "Paris"}'], ["get_time", "{}"]]
    assert (answer["content"], answer["finish"]) == ("Let me see.", "tool_calls")
    assert answer["reasoning"] == answer["reasoning_content"] == "Hm."


def test_one_call_and_no_reasoning_where_that_is_asked_for(tools_client: openai.OpenAI) -> None:
    body = writes(CALLS)
    body["extra_body"]["include_reasoning"] = False
    answer = both(tools_client, tools=TOOLS, parallel_tool_calls=False, **body)
    assert [name for name, _ in answer["calls"]] == ["get_weather"]
    assert answer["reasoning"] == ""


def test_tool_choice_none_leaves_calls_alone(tools_client: openai.OpenAI) -> None:
    text = '<tool_call>{"name": "get_time"}</tool_call>'
    answer = both(tools_client, tools=TOOLS, tool_choice="none", **writes(text))
    assert (answer["calls"], answer["content"], answer["finish"]) == ([], text, "stop")


def test_results_go_back(tools_client: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "21 degrees"},
    ]
    template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}"
        "{% for call in message.tool_calls or [] %}{{ call.function.arguments.city }}{% endfor %}"
        "{{ '\\n' }}{% endfor %}"
        "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}"
    )
    body = {"chat_template": template, "return_token_ids": True}
    answer = ask(tools_client, messages=messages, tools=TOOLS, extra_body=body, max_tokens=4)
    token_ids = answer.prompt_token_ids
    text = tools_client.post("/../detokenize", body={"tokens": token_ids}, cast_to=object)
    expected = "user: What is the weather in Paris?\nassistant: Paris\ntool: 21 degrees\nget_weather get_time "
    assert text == {"prompt": expected}


def test_usage_tells_reasoning(tools_client: openai.OpenAI) -> None:
    answer = ask(tools_client, **writes("<think>Hm, well.</think>Yes."))
    reasoning = answer.usage.completion_tokens_details.reasoning_tokens
    assert 3 < reasoning < answer.usage.completion_tokens
    assert ask(tools_client, max_tokens=4).usage.completion_tokens_details.reasoning_tokens == 0


def test_a_prompt_that_opens_the_reasoning(tools_client: openai.OpenAI) -> None:
    template = "{{ messages[0].content }}<think>\n{% if not enable_thinking %}\n</think>\n\n{% endif %}"
    body = {"chat_template": template, "chat_template_kwargs": {"enable_thinking": True}}
    answer = both(tools_client, extra_body=body, max_tokens=8)
    assert answer["content"] == ""
    assert answer["reasoning"]
    body = {"chat_template": template, "reasoning_effort": "none"}
    answer = both(tools_client, extra_body=body, max_tokens=8)
    assert answer["content"]
    assert answer["reasoning"] == ""


def test_a_structure_with_or_without_reasoning_before_it(tools_client: openai.OpenAI) -> None:
    answer = both(tools_client, extra_body={"guided_regex": "(yes|no)/[0-9]"}, max_tokens=200)
    assert answer["content"][:-1] in ("yes/", "no/")


STRICT = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}, TOOLS[1]]


def test_strict_functions_hold_where_the_model_decides(tools_client: openai.OpenAI) -> None:
    """The bias makes it begin a call; without the grammar it would go on as it likes."""
    answer = both(tools_client, tools=STRICT, max_tokens=8)
    assert answer["content"]
    bias = {str(token): 12.0 for token in token_ids(tools_client, "<tool_call>")}
    answer = both(tools_client, tools=STRICT, logit_bias=bias)
    for name, arguments in answer["calls"]:
        if name == "get_weather" and answer["finish"] != "length":
            check_weather(arguments)
    assert answer["calls"] or answer["content"]


def token_ids(client: openai.OpenAI, text: str) -> list[int]:
    answer: Any = client.post("/../tokenize", body={"prompt": text}, cast_to=object)
    return list(answer["tokens"])


def test_a_call_or_an_answer_with_a_structure(tools_client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = both(tools_client, tools=TOOLS, response_format=format, logit_bias={"107": -100.0})
    if answer["calls"]:
        assert answer["content"] == ""
    elif answer["finish"] == "stop":
        assert json.loads(answer["content"]) == {"a": 1}


def test_what_is_refused(tools_client: openai.OpenAI) -> None:
    bad = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}
    with pytest.raises(openai.BadRequestError, match="pattern"):
        ask(tools_client, tools=[{"type": "function", "function": {"name": "f", "parameters": bad}}])
    with pytest.raises(openai.BadRequestError, match="custom"):
        ask(tools_client, tools=[{"type": "custom", "custom": {"name": "f"}}])
    with pytest.raises(openai.BadRequestError, match="no token"):
        ask(tools_client, extra_body={"thinking_token_budget": 5})
