"""What crosses the wire on /v1/responses: the request's enforced fields, items, and the answer.

The format is OpenAI's: https://platform.openai.com/docs/api-reference/responses
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from octavo.server.protocol import INT32, ChatLogprob, Int32, Int64, RequestId, RequestMetrics

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]
"""The first two enrich what octavo answers; the others enrich items that it never makes."""

# ---------------------------------------------------------------- requests


class FunctionTool(msgspec.Struct, tag="function", frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class PlainText(msgspec.Struct, tag="text", frozen=True, forbid_unknown_fields=True):
    pass


class JsonObject(msgspec.Struct, tag="json_object", frozen=True, forbid_unknown_fields=True):
    pass


class JsonSchema(msgspec.Struct, tag="json_schema", frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: PlainText | JsonObject | JsonSchema | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    effort: str | None = None
    summary: Literal["auto"] | None = None
    """octavo gives the reasoning itself, so `auto` summarises nothing; other values ask for what it cannot do."""
    generate_summary: Literal["auto"] | None = None


class ResponsesStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_obfuscation: bool | None = None


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Fields whose names chat knows mean the same here."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    model: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=INT32 - 1)] | None = None
    include: list[Include] = []
    top_logprobs: Int32 = 0
    tools: list[FunctionTool] = []
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | UnsetType = UNSET
    parallel_tool_calls: bool = True
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool = False
    stream: bool = False
    stream_options: ResponsesStreamOptions | None = None
    metadata: Annotated[
        dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
    ] = {}
    request_id: RequestId | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # From here on: as chat.
    include_reasoning: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int32 | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: Int64 | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Int64] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    structured_outputs: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    priority: Int32 | None = None
    cache_salt: str | None = None


AS_CHAT = (
    "include_reasoning",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "structured_outputs",
    "chat_template_kwargs",
    "priority",
    "cache_salt",
)
"""Fields that the chat request takes as they are."""

# ---------------------------------------------------------------- answers


class OutputText(msgspec.Struct):
    text: str = ""
    annotations: list[Any] = []
    logprobs: list[ChatLogprob] = []
    type: Literal["output_text"] = "output_text"


class ReasoningText(msgspec.Struct):
    text: str = ""
    type: Literal["reasoning_text"] = "reasoning_text"


class Message(msgspec.Struct, tag="message", kw_only=True):
    id: str
    status: ItemStatus = "in_progress"
    content: list[OutputText] = []
    role: Literal["assistant"] = "assistant"


class ReasoningItem(msgspec.Struct, tag="reasoning", kw_only=True):
    id: str
    status: ItemStatus = "in_progress"
    content: list[ReasoningText] = []
    summary: list[Any] = []
    encrypted_content: str | None = None


class FunctionCall(msgspec.Struct, tag="function_call", kw_only=True):
    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: ItemStatus = "in_progress"


Item = Message | ReasoningItem | FunctionCall


class InputTokensDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct):
    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct):
    reason: Literal["max_output_tokens"]


class ResponseError(msgspec.Struct):
    message: str
    code: Literal["server_error", "invalid_prompt"] = "server_error"


class Response(msgspec.Struct, kw_only=True):
    """The answer, in each of its states."""

    id: str
    created_at: int
    model: str
    status: Status = "in_progress"
    output: list[Item] = []
    usage: ResponseUsage | None = None
    metrics: RequestMetrics | UnsetType = UNSET
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    completed_at: int | None = None
    # From here on: what the request said, or what held where it said nothing.
    instructions: str | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    temperature: float
    top_p: float
    tool_choice: Any
    tools: list[FunctionTool]
    background: bool
    max_output_tokens: int | None
    previous_response_id: str | None
    reasoning: ReasoningOptions
    store: bool
    text: TextOptions
    top_logprobs: int
    presence_penalty: float
    frequency_penalty: float
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    truncation: Literal["disabled"] = "disabled"
    object: Literal["response"] = "response"
    service_tier: Literal["default"] = "default"
    max_tool_calls: None = None
    prompt: None = None


class DeletedResponse(msgspec.Struct):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class ItemList(msgspec.Struct):
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"
