"""A chat request's messages: checked, and rendered into a prompt by the model's template."""

import asyncio
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, UnsetType

from octavo.errors import TemplateError
from octavo.server.body import LARGE_BODY
from octavo.server.errors import ApiError, printable
from octavo.server.service import Service
from octavo.server.template import ChatTemplate
from octavo.server.tools.choice import arguments_for_template

PASSED_ON = frozenset({"role", "content", "name", "tool_call_id", "reasoning", "reasoning_content"})
"""What a template may read of a message, beside its calls."""
CALL_FIELDS = frozenset({"id", "type", "function", "index"})
EMPTY_ONLY = frozenset({"refusal", "annotations", "audio"})
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
    tools: list[dict[str, Any]] | None = None,
    documents: list[dict[str, Any]] | None = None,
    chat_template: str | None = None,
    reasoning_effort: str | None = None,
) -> str:
    """The prompt of a conversation. Raises ApiError 400 that names what is wrong."""
    template = service.template if chat_template is None else await own_template(service, chat_template)
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
    if documents and "documents" not in template.variables:
        raise ApiError(400, "documents: this model's chat template has no place for them.", "documents")
    kwargs = {
        **service.config.default_chat_template_kwargs,
        **effort_kwargs(template, reasoning_effort),
        **kwargs,
    }
    generation = not continue_final_message if add_generation_prompt is UNSET else bool(add_generation_prompt)

    def run() -> str:
        return template.render(
            checked,
            add_generation_prompt=generation,
            continue_final_message=continue_final_message,
            tools=tools,
            documents=documents or None,
            **kwargs,
        )

    try:
        if template.slow or sum(map(num_characters, checked)) >= LARGE_BODY:
            return await asyncio.to_thread(run)
        return run()
    except TemplateError as error:
        raise ApiError(400, str(error), "messages") from None


async def own_template(service: Service, source: str) -> ChatTemplate:
    """A template that the request brought."""
    if not service.config.trust_request_chat_template:
        raise ApiError(400, "chat_template: needs a server with --trust-request-chat-template.", "chat_template")
    special_tokens = {} if service.template is None else service.template.special_tokens
    try:
        return await asyncio.to_thread(ChatTemplate, source, special_tokens)
    except TemplateError as error:
        raise ApiError(400, f"chat_template: {error}", "chat_template") from None


def effort_kwargs(template: ChatTemplate, effort: str | None) -> dict[str, Any]:
    """`reasoning_effort` as the template knows it, or as its switch. Raises ApiError 400 when it has neither."""
    if effort is None:
        return {}
    if "reasoning_effort" in template.variables:
        return {"reasoning_effort": effort}
    for switch in ("enable_thinking", "thinking"):
        if switch in template.variables:
            return {switch: effort != "none"}
    if effort == "none":
        return {}
    raise ApiError(400, "reasoning_effort: this model's chat template does not know how to reason.", "reasoning_effort")


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
        elif name == "tool_calls":
            checked["tool_calls"] = check_calls(f"{where}.tool_calls", value)
        elif name == "function_call":
            call = {"id": "call_0", "type": "function", "function": value}
            checked["tool_calls"] = check_calls(f"{where}.function_call", [call])
        elif name not in PASSED_ON:
            raise ApiError(400, f"{where}.{printable(name)}: this field is not known here.", "messages")
        elif not isinstance(value, str):
            raise ApiError(400, f"{where}.{name}: must be a string.", "messages")
        else:
            checked[name] = value
    if role == "function":  # the older name of a tool's answer
        checked["role"] = "tool"
    if not checked.get("tool_calls", True):
        del checked["tool_calls"]
    content = message.get("content")
    if content is None and role != "assistant":
        raise ApiError(400, f"{where}.content: is missing.", "messages")
    checked["content"] = check_content(f"{where}.content", content if content is not None else "")
    return checked


def check_calls(where: str, calls: Any) -> list[dict[str, Any]]:
    """The calls of an assistant's message, with arguments as templates read them. Raises ApiError 400."""
    if not isinstance(calls, list):
        raise ApiError(400, f"{where}: must be a list.", "messages")
    return [check_call(f"{where}[{index}]", index, call) for index, call in enumerate(calls)]


def check_call(where: str, index: int, call: Any) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise ApiError(400, f"{where}: must be an object.", "messages")
    if call.get("type", "function") != "function":
        raise ApiError(400, f"{where}.type: octavo knows calls of functions only.", "messages")
    for name in call:
        if name not in CALL_FIELDS:
            raise ApiError(400, f"{where}.{printable(name)}: this field is not known here.", "messages")
    function, id = call.get("function"), call.get("id")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ApiError(400, f"{where}.function: must be an object with a name.", "messages")
    if not isinstance(id, str | None):
        raise ApiError(400, f"{where}.id: must be a string.", "messages")
    arguments = arguments_for_template(function.get("arguments") or {})
    if not isinstance(arguments, str | dict):
        raise ApiError(400, f"{where}.function.arguments: must be JSON in a string.", "messages")
    named = {"name": function["name"], "arguments": arguments}
    return {"id": id or f"call_{index}", "type": "function", "function": named}


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
