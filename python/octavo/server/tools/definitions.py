"""The functions that a request defines: checked before anything else sees them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from octavo.server.errors import ApiError, printable

MAX_TOOLS = 256
MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_NODES = 20_000
MAX_PATTERN_CHARACTERS = 4096
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_UNLIKE_PYTHON = re.compile(r"\\[pPu]|\(\?<[^=!]")
"""What ECMA's regular expressions have and Python's write differently: only the grammar can check such a pattern."""
_LITERAL_KEYS = frozenset({"enum", "const", "default", "examples", "example"})
"""Keys whose values are data, not schemas."""
NO_PARAMETERS = {"type": "object", "properties": {}}
"""What a chat template shows of a function without parameters: many templates look into them."""
_TOOL_KEYS = frozenset({"type", "function", "cache_control", "defer_loading"})
_FUNCTION_KEYS = frozenset({"name", "description", "parameters", "strict", "return", "returns"})


@dataclass(frozen=True)
class Tool:
    name: str
    definition: dict[str, Any]
    """As a chat template shows it: {"type": "function", "function": {…}}."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """A JSON schema; {} when the function takes no arguments."""
    strict: bool = False
    """Calls have to match the schema."""


def check_tools(tools: Sequence[dict[str, Any]]) -> list[Tool]:
    """`tools` of a request. Raises ApiError 400 that names the place."""
    if len(tools) > MAX_TOOLS:
        raise refused("tools", f"at most {MAX_TOOLS}, not {len(tools)}")
    checked = [_check_tool(f"tools[{index}]", tool) for index, tool in enumerate(tools)]
    _check_names("tools", checked)
    return checked


def check_functions(functions: Sequence[dict[str, Any]]) -> list[Tool]:
    """`functions` of the older API."""
    if len(functions) > MAX_TOOLS:
        raise refused("functions", f"at most {MAX_TOOLS}, not {len(functions)}")
    checked = [_check_function(f"functions[{index}]", function) for index, function in enumerate(functions)]
    _check_names("functions", checked)
    return checked


def refused(where: str, message: str) -> ApiError:
    return ApiError(400, f"{where}: {message}.", where.partition("[")[0].partition(".")[0])


def _check_names(where: str, tools: Sequence[Tool]) -> None:
    seen: set[str] = set()
    for tool in tools:
        if tool.name in seen:
            raise refused(where, f"the name {printable(tool.name)} is there twice")
        seen.add(tool.name)


def _check_tool(where: str, tool: dict[str, Any]) -> Tool:
    kind = tool.get("type", "function")
    if kind != "function":
        shown = printable(kind) if isinstance(kind, str) else "this"
        raise refused(f"{where}.type", f"octavo takes function tools only, not {shown}")
    _check_keys(where, tool, _TOOL_KEYS)
    function = tool.get("function")
    if not isinstance(function, dict):
        raise refused(f"{where}.function", "must be an object")
    return _check_function(f"{where}.function", function)


def _check_function(where: str, function: dict[str, Any]) -> Tool:
    _check_keys(where, function, _FUNCTION_KEYS)
    name = function.get("name")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise refused(f"{where}.name", "must be 1 to 128 letters, digits, or any of _ . : / -")
    if not isinstance(function.get("description"), str | None):
        raise refused(f"{where}.description", "must be a string")
    if not isinstance(function.get("strict"), bool | None):
        raise refused(f"{where}.strict", "must be true or false")
    parameters = function.get("parameters")
    shown = {key: value for key, value in function.items() if value is not None and key != "strict"}
    definition = {"type": "function", "function": {**shown, "parameters": parameters or NO_PARAMETERS}}
    strict = function.get("strict") is True
    if parameters is None:
        return Tool(name, definition, strict=strict)
    if not isinstance(parameters, dict):
        raise refused(f"{where}.parameters", "must be an object, a JSON schema")
    if parameters.get("type", "object") != "object":
        raise refused(f"{where}.parameters.type", 'must be "object": arguments are an object')
    check_schema(f"{where}.parameters", parameters)
    return Tool(name, definition, parameters, strict)


def _check_keys(where: str, value: dict[str, Any], known: frozenset[str]) -> None:
    for key in value:
        if key not in known:
            raise refused(f"{where}.{printable(key)}", "this field is not known here")


def check_schema(where: str, schema: dict[str, Any]) -> None:
    """Refuses a schema with types that are none, patterns that are no expressions, or without bounds."""
    nodes: list[tuple[Any, int]] = [(schema, 0)]
    num_nodes = 0
    while nodes:
        node, depth = nodes.pop()
        num_nodes += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise refused(where, f"nested more than {MAX_SCHEMA_DEPTH} deep")
        if num_nodes > MAX_SCHEMA_NODES:
            raise refused(where, f"more than {MAX_SCHEMA_NODES} parts")
        if isinstance(node, list):
            nodes += ((one, depth + 1) for one in node)
        elif isinstance(node, dict):
            _check_node(where, node)
            for key, value in node.items():
                if key in _LITERAL_KEYS:
                    continue
                if key in ("properties", "$defs", "definitions", "patternProperties"):
                    # The keys of these are names: a property called "type" is no type.
                    if not isinstance(value, dict):
                        raise refused(where, f"{key} must be an object")
                    nodes += ((one, depth + 2) for one in value.values())
                elif isinstance(value, dict | list):
                    nodes.append((value, depth + 1))


def _check_node(where: str, node: dict[str, Any]) -> None:
    kind = node.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if "type" in node and not all(isinstance(one, str) and one in _TYPES for one in kinds):
        shown = printable(kind) if isinstance(kind, str) else "this"
        raise refused(where, f"{shown} is no type of JSON schema")
    if "pattern" in node:
        _check_pattern(where, node["pattern"])
    if not isinstance(node.get("required", []), list):
        raise refused(where, "required must be a list")


def _check_pattern(where: str, pattern: Any) -> None:
    if not isinstance(pattern, str):
        raise refused(where, "pattern must be a string")
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise refused(where, f"a pattern has at most {MAX_PATTERN_CHARACTERS} characters")
    if _UNLIKE_PYTHON.search(pattern):
        return
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise refused(where, f"pattern {printable(pattern)!r}: {error}") from None
