"""Content blocks of a request, as messages of a chat. Errors name the place in `messages` or `system`."""

from collections.abc import Mapping
from typing import Any

import msgspec

from octavo.server.anthropic.protocol import InputMessage
from octavo.server.errors import ApiError, printable

FIELDS = {
    "text": {"type", "text", "cache_control", "citations"},
    "thinking": {"type", "thinking", "signature"},
    "tool_use": {"type", "id", "name", "input", "cache_control", "caller"},
    "tool_result": {"type", "tool_use_id", "content", "is_error", "cache_control"},
}
ALLOWED = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "tool_use"),
    "system": ("text",),
}
ERROR_PREFIX = "Error: "
"""Tells the model of `is_error`: a chat's tool message has no field for it."""


def messages_of(messages: list[InputMessage], system: str | list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The chat's messages. Raises ApiError 400."""
    chat: list[dict[str, Any]] = []
    if system:
        text = system if isinstance(system, str) else joined(read_blocks("system", system, ("text",)))
        chat.append({"role": "system", "content": text})
    if not messages:
        raise refused("messages", "must not be empty")
    calls: set[str] = set()
    for index, message in enumerate(messages):
        where = f"messages[{index}].content"
        if isinstance(message.content, str):
            chat.append({"role": message.role, "content": message.content})
            continue
        blocks = read_blocks(where, message.content, ALLOWED[message.role])
        if message.role == "user":
            chat += of_user(where, blocks, calls)
        elif message.role == "assistant":
            chat.append(of_assistant(where, blocks, calls))
        else:
            chat.append({"role": "system", "content": joined(blocks)})
    return chat


def of_user(where: str, blocks: list[dict[str, Any]], calls: set[str]) -> list[dict[str, Any]]:
    """One message for each tool result, and one for the text."""
    messages: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        if block["type"] == "text":
            last = messages[-1] if messages else None
            if last is not None and last["role"] == "user":
                last["content"] = f"{last['content']}\n{block['text']}"
            else:
                messages.append({"role": "user", "content": block["text"]})
            continue
        call = string(f"{where}[{index}]", block, "tool_use_id")
        if call not in calls:
            raise refused(f"{where}[{index}].tool_use_id", f"no tool_use before it has the id {printable(call)!r}")
        content = block.get("content") or ""
        if not isinstance(content, str):
            content = joined(read_blocks(f"{where}[{index}].content", content, ("text",)))
        prefix = ERROR_PREFIX if block.get("is_error") else ""
        messages.append({"role": "tool", "tool_call_id": call, "content": prefix + content})
    if not messages:
        raise refused(where, "must not be empty")
    return messages


def of_assistant(where: str, blocks: list[dict[str, Any]], calls: set[str]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    thoughts = [string(where, block, "thinking") for block in blocks if block["type"] == "thinking"]
    if texts:
        message["content"] = "\n".join(texts)
    if any(thoughts):
        message["reasoning"] = "\n".join(thoughts)
    for index, block in enumerate(blocks):
        if block["type"] != "tool_use":
            continue
        place = f"{where}[{index}]"
        call = string(place, block, "id")
        if not isinstance(block.get("input"), dict):
            raise refused(f"{place}.input", "must be an object")
        function = {"name": string(place, block, "name"), "arguments": msgspec.json.encode(block["input"]).decode()}
        message.setdefault("tool_calls", []).append({"id": call, "type": "function", "function": function})
        calls.add(call)
    return message


def read_blocks(where: str, blocks: Any, allowed: tuple[str, ...]) -> list[dict[str, Any]]:
    """The blocks, each of an allowed type and with known fields. Raises ApiError 400."""
    if not isinstance(blocks, list):
        raise refused(where, "must be a string or a list of blocks")
    return [read_block(f"{where}[{index}]", block, allowed) for index, block in enumerate(blocks)]


def read_block(where: str, block: Any, allowed: tuple[str, ...]) -> dict[str, Any]:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str) or kind not in allowed:
        shown = printable(kind) if isinstance(kind, str) else "this"
        raise refused(where, f"octavo takes {', '.join(allowed)} blocks here, not {shown}")
    for name, value in block.items():
        if name not in FIELDS[kind] and value is not None:
            raise refused(f"{where}.{printable(name)}", "this field is not known here")
    if kind == "text":
        string(where, block, "text")
    checked: dict[str, Any] = block
    return checked


def string(where: str, block: Mapping[str, Any], name: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise refused(f"{where}.{name}", "must be a string")
    return value


def joined(blocks: list[dict[str, Any]]) -> str:
    return "\n".join(block["text"] for block in blocks)


def refused(where: str, why: str) -> ApiError:
    return ApiError(400, f"{where}: {why}.", where.partition("[")[0])
