"""A request for a response, as a request for a chat; errors name the field as the client knows it."""

from typing import Any

import msgspec
from msgspec import UNSET

from octavo.server.body import convert
from octavo.server.errors import ApiError, printable
from octavo.server.field_names import FieldNames
from octavo.server.fields import OPENAI_INERT, FieldTable, chat_request, fields_of
from octavo.server.protocol import ChatRequest
from octavo.server.responses.items import messages_of
from octavo.server.responses.protocol import AS_CHAT, JsonSchema, ResponsesRequest

INERT = frozenset(OPENAI_INERT) | {
    "max_tool_calls",  # counts calls of built-in tools
}
REFUSED: dict[str, tuple[Any, ...]] = {
    "truncation": ("disabled",),
    "prompt": (),
    "conversation": (),
    "context_management": ([],),
    "moderation": (),
    "access_programs": ({},),
    "background_options": ({},),
    "image": ({},),
    "watermarking": (False,),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "mm_payload": ("tensors",),
    "return_mm_kwargs": (False,),
    "enable_response_messages": (False,),
    "previous_input_messages": ([],),
    "vllm_xargs": ({},),
    "kv_transfer_params": ({},),
    "ec_transfer_params": ({},),
}
FIELDS = FieldTable(fields_of(ResponsesRequest) - REFUSED.keys(), INERT - fields_of(ResponsesRequest), REFUSED)
NAMES = {
    "messages": "input",
    "prompt": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "logprobs": "include",
}
"""What this API calls the fields of a chat request."""


def names_of(asked: ResponsesRequest) -> FieldNames:
    """The names for errors of the chat that this request becomes."""
    by_format = asked.text is not None and asked.text.format is not None
    return FieldNames({**NAMES, "structured_outputs": "text.format"} if by_format else NAMES)


def responses_request(body: dict[str, Any]) -> ResponsesRequest:
    """Raises ApiError 400 that names the field."""
    asked = convert(FIELDS.check(body), ResponsesRequest)
    if asked.top_logprobs and "message.output_text.logprobs" not in asked.include:
        raise ApiError(400, "top_logprobs: needs include to have message.output_text.logprobs.", "top_logprobs")
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(400, "stream_options: needs stream to be true.", "stream_options")
    return asked


def to_chat(asked: ResponsesRequest, items: list[dict[str, Any]], *, knows_developer: bool) -> ChatRequest:
    """The chat that gives the answer to `items`. Raises ApiError 400 that names the field as this API calls it."""
    body: dict[str, Any] = {
        "messages": messages_of(items, asked.instructions, knows_developer=knows_developer),
        "stream": asked.stream,
    }
    body |= {name: value for name in AS_CHAT if (value := getattr(asked, name)) is not None}
    if asked.max_output_tokens is not None:
        body["max_completion_tokens"] = asked.max_output_tokens
    if "message.output_text.logprobs" in asked.include:
        body |= {"logprobs": True, "top_logprobs": asked.top_logprobs}
    if asked.reasoning is not None and asked.reasoning.effort is not None:
        body["reasoning_effort"] = asked.reasoning.effort
    if asked.text is not None:
        if asked.text.verbosity not in (None, "medium"):
            body["verbosity"] = asked.text.verbosity
        if asked.text.format is not None:
            body["response_format"] = response_format(asked.text.format)
    if asked.tools:
        body["tools"] = [tool_of_chat(tool) for tool in asked.tools]
        body["parallel_tool_calls"] = asked.parallel_tool_calls
    if asked.tool_choice is not UNSET:
        body["tool_choice"] = choice_of_chat(asked.tool_choice)
    with names_of(asked).of_client():
        return chat_request(body)


def response_format(format: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(format)
    if not isinstance(format, JsonSchema):
        return plain
    kind = plain.pop("type")
    return {"type": kind, kind: {name: value for name, value in plain.items() if value is not None}}


def tool_of_chat(tool: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(tool)
    kind = plain.pop("type")
    return {"type": kind, kind: {name: value for name, value in plain.items() if value is not None}}


def choice_of_chat(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    """A function's name and `allowed_tools` in chat's form. Raises ApiError 400."""
    if isinstance(choice, str):
        return choice
    match choice:
        case {"type": "function"}:
            return function_of_chat(choice)
        case {"type": "allowed_tools", "mode": mode, "tools": list(tools), **rest} if not rest:
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [*map(function_of_chat, tools)]}}
    kind = choice.get("type")
    shown = printable(kind) if isinstance(kind, str) else "this"
    raise ApiError(400, f"tool_choice: must name a function or allowed_tools, not {shown}.", "tool_choice")


def function_of_chat(choice: Any) -> dict[str, Any]:
    match choice:
        case {"type": "function", "name": str(name), **rest} if not rest:
            return {"type": "function", "function": {"name": name}}
    raise ApiError(400, "tool_choice: a function is given by its type and its name alone.", "tool_choice")
