"""What a request wants called: its tools, which of them, whether it must be, and the schema that forces it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from octavo.server.errors import ApiError, printable
from octavo.server.protocol import ChatRequest
from octavo.server.tools.definitions import Tool, check_functions, check_tools, refused

Mode = Literal["none", "auto", "required", "named"]


@dataclass(frozen=True)
class ToolChoice:
    tools: list[Tool] = field(default_factory=list)
    """All that the model is shown."""
    mode: Mode = "none"
    names: frozenset[str] | None = None
    """What may be called; None: any name, also one that the model makes up (the client tells it so)."""
    named: str = ""
    """With mode "named": the function."""
    parallel: bool = True
    """More than one call is returned."""
    older: bool = False
    """The request has `functions`, and gets `function_call`."""

    @property
    def definitions(self) -> list[dict[str, Any]] | None:
        """What the chat template shows; None when there are no tools."""
        return [tool.definition for tool in self.tools] or None

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        return {tool.name: tool.parameters for tool in self.tools}

    def forced_schema(self) -> dict[str, Any] | None:
        """The JSON schema of an answer that has to be calls: arguments (named), or an array of calls (required)."""
        if self.mode == "named":
            return arguments_schema(next(tool for tool in self.tools if tool.name == self.named))
        if self.mode == "required":
            return calls_schema(self.callable(), parallel=self.parallel)
        return None

    def callable(self) -> list[Tool]:
        """The tools that may be called."""
        return [tool for tool in self.tools if self.names is None or tool.name in self.names]


def tool_choice(chat: ChatRequest) -> ToolChoice:
    """Raises ApiError 400 for tools or a choice that cannot be."""
    if chat.functions or chat.function_call is not None:
        return _older_choice(chat)
    tools = check_tools(chat.tools)
    parallel = chat.parallel_tool_calls
    choice = chat.tool_choice if chat.tool_choice is not None else ("auto" if tools else "none")
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise refused("tool_choice", f"must be none, auto, required, or an object, not {printable(choice)}")
        if not tools:
            if choice == "required":
                raise refused("tool_choice", "needs tools")
            return ToolChoice()
        return ToolChoice(tools, _mode(choice), frozenset() if choice == "none" else None, parallel=parallel)
    kind = choice.get("type", "function")
    if kind == "allowed_tools":
        return _allowed(choice, tools, parallel=parallel)
    if kind != "function":
        raise refused("tool_choice", f"octavo knows function and allowed_tools, not {printable(str(kind))}")
    name = _function_name("tool_choice", choice, tools)
    return ToolChoice(tools, "named", frozenset({name}), name, parallel=False)


def _mode(word: str) -> Mode:
    return "required" if word == "required" else "auto" if word == "auto" else "none"


def _older_choice(chat: ChatRequest) -> ToolChoice:
    """`functions` and `function_call`, which `tools` and `tool_choice` have replaced."""
    if chat.tools or chat.tool_choice is not None:
        raise refused("functions", "cannot be combined with tools")
    tools = check_functions(chat.functions)
    choice = chat.function_call if chat.function_call is not None else "auto"
    if isinstance(choice, dict):
        name = _function_name("function_call", {"function": choice}, tools)
        return ToolChoice(tools, "named", frozenset({name}), name, parallel=False, older=True)
    if choice not in ("none", "auto"):
        raise refused("function_call", f"must be none, auto, or an object, not {printable(choice)}")
    names = frozenset[str]() if choice == "none" else None
    return ToolChoice(tools, _mode(choice) if tools else "none", names, parallel=False, older=True)


def _function_name(where: str, choice: Mapping[str, Any], tools: list[Tool]) -> str:
    """The function that a choice names, nested as in chat or flat as in responses."""
    function = choice.get("function", choice)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise refused(where, "names no function")
    if not any(tool.name == name for tool in tools):
        raise refused(where, f"there is no tool {printable(name)}")
    return name


def _allowed(choice: Mapping[str, Any], tools: list[Tool], *, parallel: bool) -> ToolChoice:
    """Some of the tools: the others stay in the prompt, so that it is the same, and are not called."""
    inner = choice.get("allowed_tools", choice)
    allowed = inner.get("tools") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(allowed, list) or not allowed:
        raise refused("tool_choice", "allowed_tools needs tools")
    mode = inner.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise refused("tool_choice", "the mode of allowed_tools must be auto or required")
    if not all(isinstance(one, dict) for one in allowed):
        raise refused("tool_choice", "the tools of allowed_tools must be objects")
    names = frozenset(_function_name("tool_choice", one, tools) for one in allowed)
    return ToolChoice(tools, _mode(mode), names, parallel=parallel)


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """What the arguments of a call have to match; a function without parameters takes {}."""
    if not tool.parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return {"type": "object", **tool.parameters}


def calls_schema(tools: list[Tool], *, parallel: bool) -> dict[str, Any]:
    """An array of {"name", "parameters"}. Each tool's schema is a definition, and its references point into that."""
    definitions = {
        f"tool_{number}": _moved(arguments_schema(tool), f"#/$defs/tool_{number}") for number, tool in enumerate(tools)
    }
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "parameters": {"$ref": f"#/$defs/tool_{number}"}},
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for number, tool in enumerate(tools)
    ]
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}, "$defs": definitions}
    return schema if parallel else {**schema, "maxItems": 1}


def _moved(schema: Any, root: str) -> Any:
    """A copy of `schema` whose root is now at `root`. Its depth is bounded (definitions.check_schema)."""
    if isinstance(schema, list):
        return [_moved(one, root) for one in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, root) for key, value in schema.items() if key not in ("$id", "$schema")}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = root + reference[1:]
    return moved


def arguments_for_template(arguments: Any) -> Any:
    """A call's arguments as templates read them: an object. What is no JSON object stays the text that it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def needs_flags(parser_found: bool) -> ApiError:
    """For tools that the model may call, where nothing reads its calls."""
    why = (
        "tool choice auto is switched off: the server needs --enable-auto-tool-choice"
        if parser_found
        else "the chat template shows no known format of calls: the server needs --enable-auto-tool-choice and "
        "--tool-call-parser"
    )
    return ApiError(400, f'tool_choice: "auto" needs a parser of tool calls; {why}.', "tool_choice")
