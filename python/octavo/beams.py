"""Beam search from Python: vLLM's `BeamSearchParams`, and what `LLM.beam_search` returns.

The search itself is octavo-core's (beam.rs). Its scores are vLLM's: a beam's log-probability by the power
`length_penalty` of its length, which counts the prompt and not the end of sequence.
"""

from dataclasses import dataclass

from octavo.outputs import FinishReason, Logprob, RequestOutput
from octavo.sampling import SamplingParams
from octavo.tokenizer import ModelTokenizer


@dataclass(kw_only=True)
class BeamSearchParams:
    """Raises ValueError, naming the parameter, for a value out of range and for one that octavo does not do."""

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    """0 or 1: beams are ranked by the model's own log-probabilities."""
    length_penalty: float = 1.0
    """Above 0 favours long beams, below 0 short ones."""
    include_stop_str_in_output: bool = False
    """Whether a beam's text has its end of sequence."""
    structured_outputs: None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        self.to_sampling_params()

    def to_sampling_params(self) -> SamplingParams:
        if self.structured_outputs is not None:
            raise ValueError("structured_outputs: a beam search cannot honour it")
        return SamplingParams(
            use_beam_search=True,
            n=self.beam_width,
            max_tokens=self.max_tokens,
            ignore_eos=self.ignore_eos,
            temperature=self.temperature,
            length_penalty=self.length_penalty,
            logprobs=2 * self.beam_width,
            detokenize=False,
        )


@dataclass
class BeamSearchSequence:
    """One beam."""

    tokens: list[int]
    """With those of the prompt."""
    logprobs: list[dict[int, Logprob]]
    """One entry a generated token: the candidates that the search saw there."""
    lora_request: None = None
    cum_logprob: float = 0.0
    text: str | None = None
    """Of all tokens; None without a tokenizer."""
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass
class BeamSearchOutput:
    """The beams of one prompt, best first."""

    sequences: list[BeamSearchSequence]


def to_beams(output: RequestOutput, params: BeamSearchParams, tokenizer: ModelTokenizer | None) -> BeamSearchOutput:
    """A finished search, in vLLM's shape."""
    sequences = []
    for choice in output.outputs:
        tokens = output.prompt_token_ids + choice.token_ids
        has_end = choice.finish_reason == "stop" and not params.include_stop_str_in_output
        shown = tokens[:-1] if has_end else tokens
        sequences.append(
            BeamSearchSequence(
                tokens=tokens,
                logprobs=choice.logprobs or [],
                cum_logprob=choice.cumulative_logprob or 0.0,
                text=None if tokenizer is None else tokenizer.decode(shown, params.skip_special_tokens),
                finish_reason=choice.finish_reason,
                stop_reason=choice.stop_reason,
            )
        )
    return BeamSearchOutput(sequences)
