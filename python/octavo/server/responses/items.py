"""A request's input items, as the messages of a chat.

What an assistant said in one turn comes as several items (reasoning, message, function calls); a chat template knows
one message for it. Errors name the place in `input`.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from octavo.server.errors import ApiError, printable

ROLES = ("user", "assistant", "system", "developer")
TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Kind of part → the field with its text."""
FIELDS = {
    "message": {"type", "role", "content", "id", "status", "phase"},
    "function_call": {"type", "call_id", "name", "arguments", "id", "status"},
    "function_call_output": {"type", "call_id", "output", "id", "status"},
    "reasoning": {"type", "id", "summary", "content", "encrypted_content", "status"},
}
PART_FIELDS = {"type", "text", "refusal", "annotations", "logprobs", "prompt_cache_breakpoint"}


def messages_of(
    items: list[dict[str, Any]], instructions: str | None, *, knows_developer: bool
) -> list[dict[str, Any]]:
    """The conversation's messages. Raises ApiError 400.

    Templates that know no developer get a system message instead, and instructions stand in one message with the
    system's that follow: most templates take a single one, at the beginning.
    """
    reader = _Reader(knows_developer)
    if instructions:
        reader.instruct(instructions)
    for index, item in enumerate(items):
        reader.read(f"input[{index}]", item)
    if not items:
        raise refused("input", "must not be empty")
    return reader.messages


def as_items(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A request's input as items: a string is a message of the user's."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return given


class _Reader:
    def __init__(self, knows_developer: bool) -> None:
        self.messages: list[dict[str, Any]] = []
        self._knows_developer = knows_developer
        self._turn: dict[str, Any] | None = None
        """The assistant's message that further items may add to."""
        self._calls: set[str] = set()

    def instruct(self, text: str) -> None:
        self.messages.append({"role": "system", "content": text})

    def read(self, where: str, item: Any) -> None:
        kind = item.get("type") if isinstance(item, dict) else None
        kind = "message" if kind is None and isinstance(item, dict) and "role" in item else kind
        if not isinstance(kind, str) or kind not in FIELDS:
            shown = printable(kind) if isinstance(kind, str) else "this"
            raise refused(where, f"octavo takes items of the types {', '.join(FIELDS)}, not {shown}")
        for name, value in item.items():
            if name not in FIELDS[kind] and value is not None:
                raise refused(f"{where}.{printable(name)}", "this field is not known here")
        match kind:
            case "message":
                self._message(where, item)
            case "reasoning":
                self._reasoning(where, item)
            case "function_call":
                self._call(where, item)
            case _:
                self._output(where, item)

    def _message(self, where: str, item: Mapping[str, Any]) -> None:
        role = item.get("role")
        if role not in ROLES:
            raise refused(f"{where}.role", f"must be one of {', '.join(ROLES)}")
        content = read_content(f"{where}.content", item.get("content"))
        if role == "assistant":
            turn = self._turn
            if turn is None or "content" in turn:
                turn = self._begin_turn()
            turn["content"] = content
            return
        self._turn = None
        if role == "developer" and not self._knows_developer:
            role = "system"
        last = self.messages[-1] if self.messages else None
        if role == "system" and len(self.messages) == 1 and last is not None and last["role"] == "system":
            last["content"] = f"{last['content']}\n\n{content}"
            return
        self.messages.append({"role": role, "content": content})

    def _reasoning(self, where: str, item: Mapping[str, Any]) -> None:
        parts = item.get("content") or item.get("summary") or []
        if not isinstance(parts, list):
            raise refused(f"{where}.content", "must be a list")
        texts = []
        for index, part in enumerate(parts):
            text = part.get("text") if isinstance(part, dict) else None
            if not isinstance(text, str):
                raise refused(f"{where}.content[{index}].text", "must be a string")
            texts.append(text)
        if not texts and item.get("encrypted_content") is not None:
            texts = [unseal(f"{where}.encrypted_content", item["encrypted_content"])]
        if texts:
            self._begin_turn()["reasoning"] = "\n".join(texts)

    def _call(self, where: str, item: Mapping[str, Any]) -> None:
        for name in ("call_id", "name", "arguments"):
            if not isinstance(item.get(name), str):
                raise refused(f"{where}.{name}", "must be a string")
        turn = self._begin_turn() if self._turn is None else self._turn
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        turn.setdefault("tool_calls", []).append(call)
        self._calls.add(item["call_id"])

    def _output(self, where: str, item: Mapping[str, Any]) -> None:
        call = item.get("call_id")
        if not isinstance(call, str):
            raise refused(f"{where}.call_id", "must be a string")
        if call not in self._calls:
            raise refused(f"{where}.call_id", f"no function_call before it has the call_id {printable(call)!r}")
        self._turn = None
        content = read_content(f"{where}.output", item.get("output"))
        self.messages.append({"role": "tool", "tool_call_id": call, "content": content})

    def _begin_turn(self) -> dict[str, Any]:
        turn = self._turn = {"role": "assistant"}
        self.messages.append(turn)
        return turn


def read_content(where: str, content: Any) -> str:
    """A string as it is, or the texts of parts. Raises ApiError 400."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refused(where, "must be a string or a list of parts")
    return "\n".join(read_part(f"{where}[{index}]", part) for index, part in enumerate(content))


def read_part(where: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        shown = printable(kind) if isinstance(kind, str) else "this"
        raise refused(where, f"octavo takes parts of text only, not {shown}")
    for name, value in part.items():
        if name not in PART_FIELDS and value is not None:
            raise refused(f"{where}.{printable(name)}", "this field is not known here")
    text = part.get(TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise refused(f"{where}.{TEXT_PARTS[kind]}", "must be a string")
    return text


def seal(reasoning: str) -> str:
    """Reasoning as `encrypted_content`: what a client keeps and sends back. It has seen the text; nothing is secret."""
    return base64.urlsafe_b64encode(reasoning.encode()).decode()


def unseal(where: str, sealed: Any) -> str:
    try:
        return base64.b64decode(sealed, altchars=b"-_", validate=True).decode()
    except (TypeError, ValueError, binascii.Error):
        raise refused(where, "was not made by octavo") from None


def refused(where: str, why: str) -> ApiError:
    return ApiError(400, f"{where}: {why}.", "input")
