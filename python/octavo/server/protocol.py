"""What crosses the wire as JSON: requests (the fields that octavo enforces) and answers.

Which other fields a request may have stands in fields.py. An answer's field is null where vLLM's is null; only
fields that a request has to ask for are left out (UNSET).
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

INT32 = 1 << 31
Int64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Int32 = Annotated[int, Meta(ge=-INT32, le=INT32 - 1)]
Count = Annotated[int, Meta(ge=0, le=INT32 - 1)]
RequestId = Annotated[str, Meta(min_length=1, max_length=256)]

# ---------------------------------------------------------------- requests


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class RepetitionDetection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A choice ends that repeats a pattern of so many tokens `min_count` times; a max_pattern_size of 0: none does."""

    max_pattern_size: Int64 = 0
    min_pattern_size: Int64 = 0
    min_count: Int64 = 0


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's `StructuredOutputsParams`."""

    json: Any = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that chat and completions share."""

    model: str | None = None
    max_tokens: Count | UnsetType | None = UNSET
    n: Int32 = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int32 | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: Int64 | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Int64] = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: Count = 0
    skip_special_tokens: bool = True
    logit_bias: dict[str, float] = {}
    allowed_token_ids: list[Int64] | None = None
    bad_words: list[str] = []
    prompt_logprobs: Int32 | None = None
    logprob_token_ids: list[Int64] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    echo: bool = False
    priority: Int32 = 0
    request_id: RequestId | None = None
    cache_salt: Annotated[str, Meta(max_length=4096)] = ""
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool | None = None
    best_of: Int32 | None = None
    use_beam_search: bool = False
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] | None = None
    repetition_detection: RepetitionDetection | None = None
    spaces_between_special_tokens: bool = True
    stream_interval: Int32 | None = None
    truncate_prompt_tokens: Int64 | None = None
    truncation_side: Literal["left", "right"] = "left"
    timeout: float | None = None
    """Seconds."""
    response_format: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Any = None
    """A schema as an object or as text. The five of this name are vLLM's older way to say it."""
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_json_object: bool | None = None
    guided_whitespace_pattern: str | None = None
    thinking_token_budget: Count | None = None


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: Count | UnsetType | None = UNSET
    logprobs: bool = False
    top_logprobs: Int32 = 0
    add_generation_prompt: bool | UnsetType = UNSET
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    """Jinja; needs a server that trusts it."""
    chat_template_kwargs: dict[str, Any] = {}
    documents: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] = []
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    functions: list[dict[str, Any]] = []
    function_call: str | dict[str, Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    include_reasoning: bool = True


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    prompt: Any
    """A string, a list of strings, token ids, or a list of lists of token ids."""
    logprobs: Int32 | None = None
    add_special_tokens: bool = True


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Either `prompt` or `messages`."""

    model: str | None = None
    prompt: str | UnsetType = UNSET
    messages: list[dict[str, Any]] | UnsetType = UNSET
    add_special_tokens: bool | UnsetType = UNSET
    """Unset: true for a prompt, false for messages, whose template writes them."""
    return_token_strs: bool = False
    add_generation_prompt: bool | UnsetType = UNSET
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = {}
    tools: list[dict[str, Any]] = []


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a chat, a completion, or of a route of pooling; it must have one of these fields."""

    messages: list[dict[str, Any]] | UnsetType = UNSET
    prompt: Any = UNSET
    input: Any = UNSET
    query: Any = UNSET
    documents: Any = UNSET


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    tokens: list[Int64]
    model: str | None = None


# ---------------------------------------------------------------- answers


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct):
    reasoning_tokens: int


class Usage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET


class RequestMetrics(msgspec.Struct):
    """The times of one request; with several choices, from the first to the last of them."""

    time_to_first_token_ms: float
    generation_time_ms: float
    """From the first token to the last."""
    queue_time_ms: float
    mean_itl_ms: float | None
    """Between two tokens of a choice."""
    tokens_per_second: float | None
    """Generated since the request was scheduled."""
    speculative_decoding: None = None


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    content: list[ChatLogprob]


class CompletionLogprobs(msgspec.Struct):
    """The first token of an echoed prompt has no log-probability."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class PromptLogprob(msgspec.Struct):
    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[int, PromptLogprob] | None]
"""For each prompt token itself and the best tokens in its place; nothing for the first."""


class FunctionCall(msgspec.Struct):
    name: str
    arguments: str
    """JSON."""


class ChatToolCall(msgspec.Struct):
    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct):
    content: str | None
    role: str = "assistant"
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: FunctionCall | None = None
    tool_calls: list[ChatToolCall] = []
    reasoning: str | None = None
    reasoning_content: str | None = None
    """The older name of `reasoning`; both are there."""


class ChatChoice(msgspec.Struct):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: int | str | None
    token_ids: list[int] | None


class ChatResponse(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"
    service_tier: None = None
    system_fingerprint: None = None
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None
    kv_transfer_params: None = None
    metrics: RequestMetrics | UnsetType = UNSET


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str
    stop_reason: int | str | None
    token_ids: list[int] | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: PromptLogprobs | None = None


class CompletionResponse(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    object: Literal["text_completion"] = "text_completion"
    service_tier: None = None
    system_fingerprint: None = None
    kv_transfer_params: None = None
    metrics: RequestMetrics | UnsetType = UNSET


class Load(msgspec.Struct):
    server_load: int


class Version(msgspec.Struct):
    version: str


class ModelPermission(msgspec.Struct):
    id: str
    created: int
    object: Literal["model_permission"] = "model_permission"
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: None = None
    is_blocking: bool = False


class ModelCard(msgspec.Struct):
    id: str
    created: int
    root: str
    max_model_len: int
    permission: list[ModelPermission]
    object: Literal["model"] = "model"
    owned_by: str = "octavo"
    parent: None = None


class ModelList(msgspec.Struct):
    data: list[ModelCard]
    object: Literal["list"] = "list"


class TokenizeResponse(msgspec.Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeResponse(msgspec.Struct):
    prompt: str
