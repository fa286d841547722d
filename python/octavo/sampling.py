"""How one request's tokens are chosen: vLLM's `SamplingParams`, by vLLM's names and defaults.

The ranges are checked in one place, by `_core.Sampling`. Here stand the names, and the parameters that octavo
knows of but does not do yet: these raise instead of being passed over.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from enum import Enum
from typing import Any, Literal, Self, TypedDict

from octavo._core import Sampling
from octavo.logits_processors import check_processors
from octavo.structured import GuidedDecodingParams, StructuredOutputsParams

NOT_YET: Mapping[str, Any] = {
    "watermarking": None,
    "prompt_logprob_token_ids": None,
    "prompt_logprob_start": None,
    "flat_logprobs": False,
    "extra_args": None,
    "routed_experts_prompt_start": 0,
    "trace_decode_token_ids": None,
}
"""Parameters that would change the output and that octavo does not do yet, with the value that asks for nothing."""


class RequestOutputKind(Enum):
    """What each output of an engine that streams holds."""

    CUMULATIVE = 0
    """All that was generated so far."""
    DELTA = 1
    """What is new since the last one."""
    FINAL_ONLY = 2
    """There is one output, at the end."""


@dataclass
class RepetitionDetectionParams:
    """A choice ends that repeats a pattern of `min_pattern_size` (0 counts as 1) to `max_pattern_size` tokens
    `min_count` times in a row. A max_pattern_size of 0 detects nothing."""

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0


@dataclass
class SamplingParams:
    """Raises ValueError, naming the parameter, for a value out of range and for one that octavo does not do yet."""

    n: int = 1
    """Number of choices for a prompt, 1 to 128."""
    presence_penalty: float = 0.0
    """-2 to 2, once for each token that was generated."""
    frequency_penalty: float = 0.0
    """-2 to 2, times the number of its occurrences in what was generated."""
    repetition_penalty: float = 1.0
    """Above 0; above 1 makes tokens of the prompt and of what was generated less probable."""
    temperature: float = 1.0
    """0 takes the most probable token."""
    watermarking: bool | None = None
    top_p: float = 1.0
    """Above 0, at most 1: the smallest set of tokens with this probability together."""
    top_k: int = 0
    """The k most probable tokens; 0 and -1 keep all."""
    min_p: float = 0.0
    """0 to 1: least probability, relative to the most probable token's."""
    seed: int | None = None
    """Makes the choice repeatable, whatever else runs. -1 is None."""
    stop: str | Sequence[str] | None = None
    """Text that ends a choice; it is cut off unless `include_stop_str_in_output`."""
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    """None: the rest of the context."""
    min_tokens: int = 0
    logprobs: int | None = None
    """The chosen token's log-probability and those of this many best tokens; -1: of all, if `max_logprobs` is -1."""
    prompt_logprobs: int | None = None
    """The same of each prompt token but the first."""
    prompt_logprob_token_ids: Any = None
    prompt_logprob_start: int | None = None
    logprob_token_ids: Sequence[int] | None = None
    """Log-probabilities of these tokens, instead of the best ones."""
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    """False leaves out the spaces that some tokenizers (WordPiece) put between special tokens."""
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    """For `AsyncLLM` and `LLMEngine`; `LLM` returns finished outputs."""
    stream_interval: int | None = None
    """Tokens between two outputs of a stream."""
    skip_clone: bool = False
    output_text_buffer_length: int = 0
    structured_outputs: "StructuredOutputsParams | Mapping[str, Any] | None" = None
    """What the output has to match."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of these tokens, -100 to 100."""
    allowed_token_ids: Sequence[int] | None = None
    """No other tokens are generated."""
    extra_args: Mapping[str, Any] | None = None
    bad_words: Sequence[str] | None = None
    """Text that is not generated: neither at the beginning of a word nor behind a space."""
    skip_reading_prefix_cache: bool | None = None
    thinking_token_budget: int | None = None
    repetition_detection: "RepetitionDetectionParams | Mapping[str, int] | None" = None
    routed_experts_prompt_start: int = 0
    trace_decode_token_ids: Sequence[int] | None = None
    guided_decoding: "StructuredOutputsParams | Mapping[str, Any] | None" = None
    """The older name of `structured_outputs`."""
    best_of: int | None = None
    """Choices that are made, of which the n with the highest log-probability per token are returned; with
    `use_beam_search` the number of beams."""
    use_beam_search: bool = False
    """The choices are the best beams of a search, in place of sampled ones; they come at the end, best first."""
    length_penalty: float = 1.0
    """A beam's score is its log-probability by this power of its length."""
    early_stopping: bool | Literal["never"] = "never"
    """When a beam search ends: True, once as many beams as it has have ended; False, when a better one is unlikely;
    "never", when no better one can come."""
    logits_processors: Sequence[Callable[..., Any]] | None = None
    """For `LLM` and `LLMEngine`: each is called with (output_token_ids, logits) or (prompt_token_ids,
    output_token_ids, logits) before each token, and returns the logits to go on with. Logits are float32 numpy arrays
    [vocab_size]; a processor may return a torch tensor."""
    truncate_prompt_tokens: int | None = None
    """The prompt is cut to its last tokens, so many; -1: what leaves room for the answer."""
    truncation_side: Literal["left", "right"] = "left"

    def __post_init__(self) -> None:
        self.output_kind = RequestOutputKind(self.output_kind)
        self.to_core()

    @classmethod
    def from_defaults(cls, defaults: Mapping[str, Any], **given: Any) -> Self:
        """`given` over the values of a model's generation_config.json that vLLM takes from there."""
        names = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")
        values = {name: defaults[name] for name in names if defaults.get(name) is not None}
        if defaults.get("max_new_tokens") is not None:
            values["max_tokens"] = defaults["max_new_tokens"]
        return cls(**{**values, **given})

    @classmethod
    def from_optional(cls, **given: Any) -> Self:
        """As the constructor, where None stands for a default; of `max_tokens` it means the rest of the context."""
        return cls(**{name: value for name, value in given.items() if value is not None or name == "max_tokens"})

    def clone(self) -> Self:
        return copy.deepcopy(self)

    def to_core(self) -> Sampling:
        """The checked, immutable form that the engine takes."""
        for name, neutral in NOT_YET.items():
            value = getattr(self, name)
            asks_nothing = value in (None, False) or (isinstance(value, (Sequence, Mapping)) and not value)
            if value != neutral and not asks_nothing:
                raise ValueError(f"{name}: octavo does not do this yet")
        repeats = self.repetition_detection
        if isinstance(repeats, Mapping):
            repeats = RepetitionDetectionParams(**repeats)
        return Sampling(
            n=self.n,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=0 if self.top_k == -1 else self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            seed=None if self.seed == -1 else self.seed,
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop or (),
            stop_token_ids=self.stop_token_ids or (),
            include_stop_str_in_output=self.include_stop_str_in_output,
            skip_special_tokens=self.skip_special_tokens,
            detokenize=self.detokenize,
            logit_bias=sorted((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            logprobs=self.logprobs,
            structure=self._structure(),
            thinking_token_budget=self.thinking_token_budget,
            **beam_options(
                use_beam_search=self.use_beam_search,
                n=self.n,
                best_of=self.best_of,
                length_penalty=self.length_penalty,
                early_stopping=self.early_stopping,
            ),
            logits_processors=bool(check_processors(self.logits_processors)),
            repetition_detection=None if repeats is None else astuple(repeats),
            spaces_between_special_tokens=self.spaces_between_special_tokens,
            stream_interval=self.stream_interval or 1,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
            truncation_side=self.truncation_side,
            allowed_token_ids=self.allowed_token_ids,
            bad_words=self.bad_words or (),
            logprob_token_ids=self.logprob_token_ids or (),
            prompt_logprobs=self.prompt_logprobs,
        )

    def _structure(self) -> tuple[str, str] | None:
        if self.structured_outputs is not None and self.guided_decoding is not None:
            raise ValueError("guided_decoding: is the older name of structured_outputs; give one of them")
        asked = self.guided_decoding if self.structured_outputs is None else self.structured_outputs
        if isinstance(asked, Mapping):
            try:
                asked = GuidedDecodingParams(**asked)
            except (TypeError, ValueError) as error:
                raise ValueError(f"structured_outputs: {f'{error}'.removeprefix('structured_outputs: ')}") from None
        if asked is not None and not isinstance(asked, StructuredOutputsParams):
            raise ValueError("structured_outputs: must be StructuredOutputsParams, or an object with its fields")
        structure = None if asked is None else asked.structure()
        return None if structure is None else structure.to_core()

    def __repr__(self) -> str:
        changed = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default)
        return f"SamplingParams({', '.join(changed)})"


class BeamOptions(TypedDict):
    """Arguments of `_core.Sampling`."""

    best_of: int | None
    beam_width: int | None
    length_penalty: float
    early_stopping: bool | None


def beam_options(
    *,
    use_beam_search: bool,
    n: int,
    best_of: int | None,
    length_penalty: float,
    early_stopping: bool | Literal["never"] | None,
) -> BeamOptions:
    """vLLM's parameters of a beam search as the core takes them."""
    return {
        "best_of": None if use_beam_search else best_of,
        "beam_width": (n if best_of is None else best_of) if use_beam_search else None,
        "length_penalty": length_penalty,
        "early_stopping": None if early_stopping == "never" else early_stopping,
    }
