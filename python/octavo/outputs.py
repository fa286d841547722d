"""What `LLM` returns, in vLLM's shapes."""

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "abort"]


@dataclass(slots=True)
class Logprob:
    """One token's log-probability, of the logits before any sampling parameter."""

    logprob: float
    rank: int | None = None
    """1 for the most probable token."""
    decoded_token: str | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One choice."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    """One entry a token, best tokens first, the chosen token always among them; None when not asked for."""
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The stop token id or stop string that ended it; None for the end-of-sequence token."""
    lora_request: None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestMetrics:
    """Seconds of CLOCK_MONOTONIC (`time.monotonic()`), of the request's first choice."""

    arrival_time: float
    first_scheduled_time: float
    first_token_time: float
    last_token_time: float
    num_preemptions: int


@dataclass(slots=True)
class RequestOutput:
    """Every choice of one prompt."""

    request_id: str
    prompt: str | None
    """None when the prompt was given as token ids."""
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = False
    metrics: RequestMetrics | None = None
    num_cached_tokens: int = 0
    prompt_logprobs: None = None
    lora_request: None = None
    kv_transfer_params: None = None
