"""A request of the Messages API, as a request for a chat; errors name the field as the client knows it."""

from collections.abc import Mapping
from typing import Any

from octavo.server.anthropic.blocks import messages_of
from octavo.server.anthropic.protocol import CountRequest, MessagesRequest, Tool, ToolChoice
from octavo.server.body import convert
from octavo.server.errors import ApiError
from octavo.server.field_names import FieldNames
from octavo.server.fields import FieldTable, chat_request, fields_of
from octavo.server.protocol import ChatRequest

INERT = frozenset(
    {
        "metadata",  # names the end user
        "service_tier",  # there is one tier
        "cache_control",  # the prefix cache needs no hint
    }
)
KEEPS_ALL = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
"""What some clients send to ask for nothing."""
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "container": (),
    "context_management": ({}, {"edits": []}, KEEPS_ALL),
    "mcp_servers": ([],),
    "diagnostics": (),
    "inference_geo": (),
    "speed": ("standard",),
    "user_profile_id": (),
    "workspace_id": (),
    "watermarking": (False,),
    "mm_payload": ("tensors",),
    "return_mm_kwargs": (False,),
    "kv_transfer_params": ({},),
    "ec_transfer_params": ({},),
    "vllm_xargs": ({},),
}
MESSAGES = FieldTable(fields_of(MessagesRequest), INERT, REFUSED)
COUNT = FieldTable(fields_of(CountRequest), INERT, REFUSED)
NAMES = FieldNames(
    {
        "stop": "stop_sequences",
        "prompt": "messages",
        "thinking_token_budget": "thinking",
        "include_reasoning": "thinking",
        "reasoning_effort": "output_config.effort",
        "response_format": "output_config.format",
        "structured_outputs": "output_config.format",
        "parallel_tool_calls": "tool_choice",
    }
)
"""What this API calls the fields of a chat request."""
CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def messages_request(body: dict[str, Any]) -> MessagesRequest:
    """Raises ApiError 400 that names the field."""
    return convert(MESSAGES.check(body), MessagesRequest)


def count_request(body: dict[str, Any]) -> CountRequest:
    """Raises ApiError 400 that names the field."""
    return convert(COUNT.check(body), CountRequest)


def to_chat(asked: CountRequest) -> ChatRequest:
    """The chat that gives the answer. Raises ApiError 400 that names the field as this API calls it."""
    body: dict[str, Any] = {"messages": messages_of(asked.messages, asked.system)}
    last = body["messages"][-1]
    if last["role"] == "assistant":
        if "tool_calls" in last:
            raise ApiError(400, "messages: tool_use must be followed by its tool_result.", "messages")
        # A last message of the assistant's is the beginning of the answer.
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    kwargs = dict(asked.chat_template_kwargs)
    thinking = asked.thinking
    if thinking is not None:
        if (thinking.type == "enabled") != (thinking.budget_tokens is not None):
            raise ApiError(400, "thinking: budget_tokens goes with type enabled, and only with it.", "thinking")
        kwargs.setdefault("enable_thinking", thinking.type != "disabled")
        if thinking.budget_tokens is not None:
            body["thinking_token_budget"] = thinking.budget_tokens
        if thinking.display == "omitted":
            body["include_reasoning"] = False
    if kwargs:
        body["chat_template_kwargs"] = kwargs
    if asked.output_config is not None:
        if asked.output_config.effort is not None:
            body["reasoning_effort"] = asked.output_config.effort
        if asked.output_config.format is not None:
            schema = {"name": "output", "schema": asked.output_config.format.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if asked.tools:
        body["tools"] = [tool_of_chat(tool) for tool in asked.tools]
    if asked.tool_choice is not None:
        body |= choice_of_chat(asked.tool_choice)
    if isinstance(asked, MessagesRequest):
        body |= sampling_of_chat(asked)
    with NAMES.of_client():
        return chat_request(body)


def sampling_of_chat(asked: MessagesRequest) -> dict[str, Any]:
    body: dict[str, Any] = {"max_tokens": asked.max_tokens, "stream": asked.stream}
    if asked.stop_sequences:
        body["stop"] = asked.stop_sequences
    names = ("temperature", "top_p", "top_k", "cache_salt")
    return body | {name: value for name in names if (value := getattr(asked, name)) is not None}


def tool_of_chat(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": {"type": "object", **tool.input_schema}}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def choice_of_chat(choice: ToolChoice) -> dict[str, Any]:
    if (choice.type == "tool") != (choice.name is not None):
        raise ApiError(400, "tool_choice: name goes with type tool, and only with it.", "tool_choice")
    named = {"type": "function", "function": {"name": choice.name}}
    body: dict[str, Any] = {"tool_choice": named if choice.type == "tool" else CHOICES[choice.type]}
    if choice.disable_parallel_tool_use:
        body["parallel_tool_calls"] = False
    return body
