"""What `LLM` returns, in vLLM's shapes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from octavo.vectors import Vector

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
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    """One entry a prompt token, as `CompletionOutput.logprobs`; None for the first. None when not asked for."""
    lora_request: None = None
    kv_transfer_params: None = None


@dataclass(slots=True)
class PoolingOutput:
    data: "Vector"
    """A NumPy array: the vector of a prompt, a row for each token, or a number for each class, as the task is."""


@dataclass(slots=True)
class EmbeddingOutput:
    embedding: list[float]

    @property
    def hidden_size(self) -> int:
        return len(self.embedding)


@dataclass(slots=True)
class ClassificationOutput:
    probs: list[float]

    @property
    def num_classes(self) -> int:
        return len(self.probs)


@dataclass(slots=True)
class ScoringOutput:
    score: float


@dataclass(slots=True, kw_only=True)
class _Pooled:
    """What the outputs of prompts that were pooled share."""

    request_id: str
    prompt_token_ids: list[int]
    num_cached_tokens: int = 0
    finished: bool = True


@dataclass(slots=True, kw_only=True)
class PoolingRequestOutput(_Pooled):
    outputs: PoolingOutput


@dataclass(slots=True, kw_only=True)
class EmbeddingRequestOutput(_Pooled):
    outputs: EmbeddingOutput


@dataclass(slots=True, kw_only=True)
class ClassificationRequestOutput(_Pooled):
    outputs: ClassificationOutput


@dataclass(slots=True, kw_only=True)
class ScoringRequestOutput(_Pooled):
    outputs: ScoringOutput
