"""Tools as a request defines and chooses them, and messages with calls: what is taken, and what is a 400."""

from typing import Any

import pytest

from octavo.config import ReasoningParser, ServerConfig, ToolCallParser
from octavo.errors import ModelError
from octavo.server.errors import ApiError
from octavo.server.fields import chat_request
from octavo.server.formats import choose_formats
from octavo.server.messages import check_messages
from octavo.server.reasoning.styles import STYLES
from octavo.server.tools.choice import ToolChoice, tool_choice
from octavo.server.tools.registry import PARSERS

PLACE = {"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}, "$defs": {"City": {"type": "string"}}}


def tool(name: str, parameters: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


TOOLS = [tool("weather", PLACE, description="How it is", strict=True), tool("time")]


def choose(**fields: Any) -> ToolChoice:
    return tool_choice(chat_request({"messages": [{"role": "user", "content": "Hi"}], **fields}))


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def test_choices() -> None:
    assert choose().mode == choose(tools=[]).mode == choose(tool_choice="auto").mode == "none"
    auto = choose(tools=TOOLS)
    assert (auto.mode, auto.names, auto.parallel, auto.forced_schema()) == ("auto", None, True, None)
    shown = [tool("weather", PLACE, description="How it is"), tool("time", {"type": "object", "properties": {}})]
    assert auto.definitions == shown
    none = choose(tools=TOOLS, tool_choice="none")
    assert (none.mode, none.names) == ("none", frozenset())
    assert choose(tools=TOOLS, parallel_tool_calls=False).parallel is False
    one = choose(tools=TOOLS, tool_choice=named("weather"))
    assert (one.mode, one.named, one.forced_schema()) == ("named", "weather", PLACE)
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    assert choose(tools=TOOLS, tool_choice=named("time")).forced_schema() == closed


def test_the_schema_of_required_calls() -> None:
    schema = choose(tools=TOOLS, tool_choice="required").forced_schema()
    assert schema is not None
    names = [call["properties"]["name"]["const"] for call in schema["items"]["anyOf"]]
    assert names == ["weather", "time"]
    assert schema["$defs"]["tool_0"]["properties"]["city"] == {"$ref": "#/$defs/tool_0/$defs/City"}
    assert "maxItems" not in schema
    alone = choose(tools=TOOLS, tool_choice="required", parallel_tool_calls=False).forced_schema()
    assert alone is not None
    assert alone["maxItems"] == 1


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools(mode: str) -> None:
    allowed = {"mode": mode, "tools": [named("time")]}
    choice = choose(tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert (choice.mode, choice.names, len(choice.tools)) == (mode, {"time"}, 2)
    if mode == "required":
        schema = choice.forced_schema()
        assert schema is not None
        assert len(schema["items"]["anyOf"]) == 1


def test_functions_of_the_older_api() -> None:
    functions = [entry["function"] for entry in TOOLS]
    choice = choose(functions=functions)
    assert (choice.mode, choice.older, choice.parallel) == ("auto", True, False)
    assert choose(functions=functions, function_call={"name": "time"}).named == "time"
    assert choose(functions=functions, function_call="none").mode == "none"


DEEP: dict[str, Any] = {"type": "object"}
for _ in range(80):
    DEEP = {"type": "object", "properties": {"a": DEEP}}

BAD: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tools": [tool("")]}, "tools"),
    ({"tools": [tool("a b")]}, "tools"),
    ({"tools": [tool("f" * 200)]}, "tools"),
    ({"tools": [tool("f"), tool("f")]}, "tools"),
    ({"tools": [tool("f", [1])]}, "tools"),
    ({"tools": [tool("f", {"type": "array"})]}, "tools"),
    ({"tools": [tool("f", {"type": "object", "properties": {"a": {"type": "strin"}}})]}, "tools"),
    ({"tools": [tool("f", {"type": "object", "properties": {"a": {"type": ["string", 5]}}})]}, "tools"),
    ({"tools": [tool("f", {"type": "object", "properties": {"a": {"pattern": "("}}})]}, "tools"),
    ({"tools": [tool("f", {"type": "object", "properties": {"a": {"pattern": 5}}})]}, "tools"),
    ({"tools": [tool("f", {"type": "object", "properties": {"a": {"pattern": "a" * 9999}}})]}, "tools"),
    ({"tools": [tool("f", {"type": "object", "properties": [1]})]}, "tools"),
    ({"tools": [tool("f", DEEP)]}, "tools"),
    ({"tools": [tool("f", {"type": "object", "anyOf": [{}] * 30_000})]}, "tools"),
    ({"tools": [tool("f", colour="red")]}, "tools"),
    ({"tools": [tool(f"f{number}") for number in range(300)]}, "tools"),
    ({"tools": "weather"}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": named("no")}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [1]}}}, "tool_choice"),
    ({"functions": [{"name": "f"}], "tools": TOOLS}, "functions"),
    ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call"),
    ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda value: repr(value)[:60])
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        choose(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_properties_may_have_any_name_and_patterns_ecmas_syntax() -> None:
    properties = {"type": {"type": "string"}, "pattern": {"pattern": r"^\p{L}+$"}, "enum": {"enum": [{"type": 5}]}}
    assert choose(tools=[tool("f", {"type": "object", "properties": properties})]).mode == "auto"


def test_messages_with_calls_and_results() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    checked = check_messages(
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "warm"}]},
            {"role": "assistant", "function_call": {"name": "f", "arguments": ""}},
            {"role": "function", "name": "f", "content": "1"},
            {"role": "assistant", "content": "Hi", "tool_calls": []},
        ]
    )
    assert checked[0]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
    assert checked[1]["tool_call_id"] == "c1"
    assert checked[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}
    assert checked[3] == {"role": "tool", "name": "f", "content": "1"}
    assert "tool_calls" not in checked[4]


@pytest.mark.parametrize(
    "calls",
    ["x", [5], [{"type": "custom"}], [{"function": {}}], [{"function": {"name": "f", "arguments": 5}}], [{"a": 1}]],
)
def test_calls_in_messages_that_are_none(calls: Any) -> None:
    with pytest.raises(ApiError) as caught:
        check_messages([{"role": "assistant", "tool_calls": calls}])
    assert caught.value.param == "messages"


def test_arguments_that_are_no_json_stay_text() -> None:
    call = {"function": {"name": "f", "arguments": "{broken"}}
    assert check_messages([{"role": "assistant", "tool_calls": [call]}])[0]["tool_calls"][0]["function"] == {
        "name": "f",
        "arguments": "{broken",
    }


def test_options_name_every_parser() -> None:
    assert set(ToolCallParser.__args__) == {"auto", *PARSERS}  # type: ignore[attr-defined]
    assert set(ReasoningParser.__args__) == {"auto", *STYLES}  # type: ignore[attr-defined]


def test_formats_from_flags_and_template() -> None:
    hermes, nothing = "{{ '<tool_call>' }} {{ '</think>' }}", "{{ messages }}"
    assert choose_formats(ServerConfig(), hermes, None).tools is PARSERS["hermes"]
    assert choose_formats(ServerConfig(), hermes, None).auto_tools
    assert choose_formats(ServerConfig(), hermes, None).reasoning is None
    assert choose_formats(ServerConfig(reasoning_parser="auto"), hermes, None).reasoning is STYLES["qwen3"]
    assert not choose_formats(ServerConfig(enable_auto_tool_choice=False), hermes, None).auto_tools
    assert not choose_formats(ServerConfig(), nothing, None).auto_tools
    assert choose_formats(ServerConfig(tool_call_parser="jamba"), nothing, None).auto_tools
    with pytest.raises(ModelError, match="--tool-call-parser"):
        choose_formats(ServerConfig(enable_auto_tool_choice=True), nothing, None)
    with pytest.raises(ApiError, match="--enable-auto-tool-choice"):
        choose_formats(ServerConfig(), nothing, None).check(choose(tools=TOOLS))
