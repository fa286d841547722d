"""What crosses the wire on /v1/messages: the requests' enforced fields, content blocks, and the answers."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from octavo.server.protocol import INT32, Int32

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]

# ---------------------------------------------------------------- requests


class CacheControl(msgspec.Struct, frozen=True):
    """A hint that the prefix cache needs not."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class InputMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class Tool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: Literal["custom"] | None = None
    cache_control: CacheControl | None = None
    defer_loading: Literal[False] | None = None
    eager_input_streaming: bool | None = None
    """octavo streams what there is of an input, in any case."""


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Meta(ge=1, le=INT32 - 1)] | None = None
    display: Literal["summarized", "omitted"] | None = None
    """octavo summarises nothing: it shows the thinking, or leaves it out."""


class OutputFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    effort: str | None = None
    format: OutputFormat | None = None


class CountRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What makes the prompt."""

    messages: list[InputMessage]
    model: str | None = None
    system: str | list[dict[str, Any]] | None = None
    tools: list[Tool] = []
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] = {}


class MessagesRequest(CountRequest, frozen=True, kw_only=True):
    max_tokens: Annotated[int, Meta(ge=1, le=INT32 - 1)]
    stop_sequences: list[str] = []
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int32 | None = None
    cache_salt: str | None = None


# ---------------------------------------------------------------- answers


class TextBlock(msgspec.Struct, tag="text"):
    text: str = ""
    citations: None = None


class ThinkingBlock(msgspec.Struct, tag="thinking"):
    thinking: str = ""
    signature: str = ""


class ToolUseBlock(msgspec.Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any] = {}


Block = TextBlock | ThinkingBlock | ToolUseBlock


class MessagesUsage(msgspec.Struct):
    input_tokens: int
    """Without those that the prefix cache had."""
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class MessagesAnswer(msgspec.Struct, kw_only=True):
    id: str
    model: str
    content: list[Block]
    usage: MessagesUsage
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    role: Literal["assistant"] = "assistant"
    type: Literal["message"] = "message"


class CountAnswer(msgspec.Struct):
    input_tokens: int
