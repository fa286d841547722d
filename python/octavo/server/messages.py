"""A chat request's messages: checked, and rendered into a prompt by the model's template."""

import asyncio
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, UnsetType

from octavo.errors import TemplateError
from octavo.server.body import LARGE_BODY
from octavo.server.errors import ApiError, printable
from octavo.server.service import Service

PASSED_ON = frozenset({"role", "content", "name", "tool_call_id", "reasoning", "reasoning_content"})
"""What a template may read of a message."""
EMPTY_ONLY = frozenset({"tool_calls", "function_call", "refusal", "annotations", "audio"})
"""Fields of assistant messages that clients send back as they got them: nothing in them."""
PART_FIELDS = frozenset({"type", "text", "cache_control"})
RESERVED_KWARGS = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "tokenize",
        "return_dict",
        "return_tensors",
        "return_assistant_tokens_mask",
        "padding",
        "truncation",
        "max_length",
        "bos_token",
        "eos_token",
        "unk_token",
        "pad_token",
        "raise_exception",
        "strftime_now",
    }
)
"""What a template gets from octavo, and what would change how it is run: chat_template_kwargs may not set it."""


async def render(
    service: Service,
    messages: list[dict[str, Any]],
    *,
    add_generation_prompt: bool | UnsetType,
    continue_final_message: bool,
    kwargs: Mapping[str, Any],
) -> str:
    """The prompt of a conversation. Raises ApiError 400 that names what is wrong."""
    template = service.template
    if template is None:
        raise ApiError(400, "This model has no chat template: name one with --chat-template, or use /v1/completions.")
    if continue_final_message and add_generation_prompt is True:
        raise ApiError(
            400,
            "continue_final_message: cannot be combined with add_generation_prompt, which begins a new message.",
            "continue_final_message",
        )
    for name in kwargs:
        if name in RESERVED_KWARGS:
            raise ApiError(400, f"chat_template_kwargs: {name} may not be set here.", "chat_template_kwargs")
    checked = check_messages(messages)
    generation = not continue_final_message if add_generation_prompt is UNSET else bool(add_generation_prompt)

    def run() -> str:
        return template.render(
            checked,
            add_generation_prompt=generation,
            continue_final_message=continue_final_message,
            **kwargs,
        )

    try:
        if template.slow or sum(map(num_characters, checked)) >= LARGE_BODY:
            return await asyncio.to_thread(run)
        return run()
    except TemplateError as error:
        raise ApiError(400, str(error), "messages") from None


def check_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with what a template may read, and nothing else. Raises ApiError 400."""
    if not messages:
        raise ApiError(400, "messages: must not be empty.", "messages")
    return [check_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def check_message(where: str, message: dict[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ApiError(400, f"{where}.role: must be a string.", "messages")
    checked: dict[str, Any] = {"role": role}
    for name, value in message.items():
        if name in ("role", "content") or value is None:
            continue
        if name in EMPTY_ONLY:
            if value:
                raise ApiError(400, f"{where}.{name}: octavo cannot do this yet.", "messages")
        elif name not in PASSED_ON:
            raise ApiError(400, f"{where}.{printable(name)}: this field is not known here.", "messages")
        elif not isinstance(value, str):
            raise ApiError(400, f"{where}.{name}: must be a string.", "messages")
        else:
            checked[name] = value
    content = message.get("content")
    if content is None and role != "assistant":
        raise ApiError(400, f"{where}.content: is missing.", "messages")
    checked["content"] = check_content(f"{where}.content", content if content is not None else "")
    return checked


def check_content(where: str, content: Any) -> str | list[dict[str, str]]:
    """A string as it is, or a list of text parts. Raises ApiError 400."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError(400, f"{where}: must be a string or a list of parts.", "messages")
    return [check_part(f"{where}[{index}]", part) for index, part in enumerate(content)]


def check_part(where: str, part: Any) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "input_text", "output_text"):
        shown = printable(kind) if isinstance(kind, str) else "this"
        raise ApiError(400, f"{where}: octavo takes text parts only, not {shown}.", "messages")
    if not isinstance(part.get("text"), str):
        raise ApiError(400, f"{where}.text: must be a string.", "messages")
    for name in part:
        if name not in PART_FIELDS:
            raise ApiError(400, f"{where}.{printable(name)}: this field is not known here.", "messages")
    return {"type": "text", "text": part["text"]}


def num_characters(message: dict[str, Any]) -> int:
    content = message["content"]
    return len(content) if isinstance(content, str) else sum(len(part["text"]) for part in content)


def joined_text(message: dict[str, Any]) -> str:
    """The text of a checked message's content."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)
