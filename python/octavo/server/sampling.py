"""From a request's fields to `_core.Sampling`: request value > generation_config.json > default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import UNSET

from octavo._core import Sampling
from octavo.sampling import beam_options
from octavo.server.errors import ApiError, printable
from octavo.server.protocol import ChatRequest, CompletionRequest, GenerationRequest
from octavo.server.structures import structure_of
from octavo.structured import Structure

MAX_STOP_STRINGS = 64
MAX_STOP_CHARACTERS = 4096
COMPLETION_MAX_TOKENS = 16
"""What a completion generates when the request does not say."""
U64 = (1 << 64) - 1


@dataclass(frozen=True)
class SamplingDefaults:
    """What a request that does not say gets; the model's generation_config.json fills it."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    stream_interval: int = 1

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any], stream_interval: int = 1) -> "SamplingDefaults":
        """Takes the entries that octavo knows; an entry of null is none."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")
        known = {name: config[name] for name in names if config.get(name) is not None}
        return cls(stream_interval=stream_interval, **known)


@dataclass(frozen=True)
class Resolved:
    sampling: Sampling
    max_tokens: int | None
    """None: the rest of the context."""
    clamp: bool
    """Whether `max_tokens` is cut to what the context leaves: the client did not choose it."""
    structure_field: str | None = None
    """The field that asked for a structure of the output, if one did."""
    scores_prompt: bool = False
    """Whether the log-probabilities of the prompt come."""


@dataclass(frozen=True)
class SamplingResolver:
    """The server's part in every request's sampling."""

    defaults: SamplingDefaults
    vocab_size: int
    max_logprobs: int

    def chat(
        self,
        request: ChatRequest,
        *,
        structure: Structure | None = None,
        structure_field: str = "tools",
        reasoning_end: Sequence[int] = (),
    ) -> Resolved:
        """`structure`, which `structure_field` asks for, goes before the request's own; it holds after the tokens
        `reasoning_end`, or from the first token. Raises ApiError 400 that names the field."""
        if request.top_logprobs and not request.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs to be true.", "top_logprobs")
        self.check_logprobs("top_logprobs", request.top_logprobs)
        scored = self.check_prompt_logprobs(request)
        asked = request.max_completion_tokens
        if asked is UNSET or asked is None:
            asked = request.max_tokens
        chosen = None if asked is UNSET else asked
        max_tokens = self.defaults.max_new_tokens if chosen is None else chosen
        logprobs = request.top_logprobs if request.logprobs else None
        held = structure_of(request) if structure is None else (structure_field, structure)
        sampling = self.build(
            request, max_tokens, held and held[1], reasoning_end, logprobs=logprobs, prompt_logprobs=scored
        )
        return Resolved(sampling, max_tokens, chosen is None, held and held[0], scored is not None)

    def completion(
        self, request: CompletionRequest, *, structure: Structure | None = None, reasoning_end: Sequence[int] = ()
    ) -> Resolved:
        """As `chat`. A max_tokens of null means the rest of the context, and one of 0 with echo the prompt alone."""
        scored = self.check_prompt_logprobs(request)
        if request.logprobs is not None:
            self.check_logprobs("logprobs", request.logprobs)
            if request.echo:
                if request.stream:
                    raise ApiError(400, "echo: with logprobs it cannot be streamed.", "echo")
                # The shorter list of the two is cut from the longer one.
                both = (request.logprobs, -1 if scored is None else scored)
                scored = -1 if -1 in (request.logprobs, scored) else max(both)
        if request.max_tokens is UNSET:
            max_tokens: int | None = self.defaults.max_new_tokens or COMPLETION_MAX_TOKENS
            clamp = True
        else:
            max_tokens, clamp = request.max_tokens, False
        held = structure_of(request) if structure is None else ("structured_outputs", structure)
        prompt_only = request.echo and max_tokens == 0
        sampling = self.build(
            request,
            1 if prompt_only else max_tokens,
            held and held[1],
            reasoning_end,
            logprobs=request.logprobs,
            prompt_logprobs=scored,
            prompt_only=prompt_only,
        )
        return Resolved(sampling, max_tokens, clamp, held and held[0], scored is not None)

    def check_prompt_logprobs(self, request: GenerationRequest) -> int | None:
        if request.prompt_logprobs is None:
            return None
        if request.stream:
            raise ApiError(400, "prompt_logprobs: cannot be streamed.", "prompt_logprobs")
        self.check_logprobs("prompt_logprobs", request.prompt_logprobs)
        return request.prompt_logprobs

    def check_logprobs(self, name: str, value: int) -> None:
        """-1 is the whole vocabulary, where --max-logprobs is -1 too."""
        most = self.vocab_size if self.max_logprobs == -1 else self.max_logprobs
        if not min(self.max_logprobs, 0) <= value <= most:
            least = min(self.max_logprobs, 0)
            raise ApiError(400, f"{name}: must be {least} to {most} (--max-logprobs), not {value}.", name)

    def build(
        self,
        request: GenerationRequest,
        max_tokens: int | None,
        structure: Structure | None,
        reasoning_end: Sequence[int],
        *,
        logprobs: int | None,
        prompt_logprobs: int | None,
        prompt_only: bool = False,
    ) -> Sampling:
        defaults = search_defaults(self.defaults) if request.use_beam_search else self.defaults
        top_k = defaults.top_k if request.top_k is None else request.top_k
        seed = None if request.seed in (None, -1) else request.seed
        is_ranked = request.best_of is not None and request.best_of > request.n and not request.use_beam_search
        if request.stream and is_ranked:
            raise ApiError(400, "best_of: above n it cannot be streamed: the best are known at the end.", "best_of")
        repeats, interval = request.repetition_detection, request.stream_interval
        try:
            return Sampling(
                n=request.n,
                temperature=first(request.temperature, defaults.temperature),
                top_p=first(request.top_p, defaults.top_p),
                top_k=0 if top_k == -1 else top_k,
                min_p=first(request.min_p, defaults.min_p),
                presence_penalty=first(request.presence_penalty, 0.0),
                frequency_penalty=first(request.frequency_penalty, 0.0),
                repetition_penalty=first(request.repetition_penalty, defaults.repetition_penalty),
                seed=None if seed is None else seed & U64,
                max_tokens=max_tokens,
                min_tokens=request.min_tokens,
                ignore_eos=request.ignore_eos,
                stop=stop_strings(request.stop),
                stop_token_ids=self.token_ids("stop_token_ids", request.stop_token_ids),
                include_stop_str_in_output=request.include_stop_str_in_output,
                skip_special_tokens=request.skip_special_tokens,
                logit_bias=self.logit_bias(request.logit_bias),
                allowed_token_ids=self.allowed_token_ids(request.allowed_token_ids),
                bad_words=request.bad_words,
                logprobs=logprobs,
                structure=None if structure is None else structure.to_core(),
                reasoning_end=reasoning_end,
                thinking_token_budget=request.thinking_token_budget,
                **beam_options(
                    use_beam_search=request.use_beam_search,
                    n=request.n,
                    best_of=request.best_of,
                    length_penalty=request.length_penalty,
                    early_stopping=request.early_stopping,
                ),
                logprob_token_ids=self.token_ids("logprob_token_ids", request.logprob_token_ids),
                prompt_logprobs=prompt_logprobs,
                prompt_only=prompt_only,
                repetition_detection=None if repeats is None else msgspec.structs.astuple(repeats),
                spaces_between_special_tokens=request.spaces_between_special_tokens,
                stream_interval=defaults.stream_interval if interval is None else interval,
                truncate_prompt_tokens=request.truncate_prompt_tokens,
                truncation_side=request.truncation_side,
            )
        except ValueError as error:
            name = str(error).partition(":")[0]
            raise ApiError(400, f"{error}", name if name.isidentifier() else None) from None
        except OverflowError:
            # A number that is no 32-bit one; the fields with such a type are checked by name in Sampling otherwise.
            raise ApiError(400, f"{out_of_range(request)}: out of range.", out_of_range(request)) from None

    def token_ids(self, name: str, token_ids: Sequence[int]) -> Sequence[int]:
        for token_id in token_ids:
            if not 0 <= token_id < self.vocab_size:
                raise ApiError(400, f"{name}: {token_id} is no token id (0 to {self.vocab_size - 1}).", name)
        return token_ids

    def allowed_token_ids(self, token_ids: Sequence[int] | None) -> Sequence[int] | None:
        return None if token_ids is None else self.token_ids("allowed_token_ids", token_ids)

    def logit_bias(self, bias: Mapping[str, float]) -> list[tuple[int, float]]:
        pairs: dict[int, float] = {}
        for key, value in bias.items():
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise ApiError(400, f"logit_bias: the key {printable(key, 32)!r} is no token id.", "logit_bias")
            pairs[int(key)] = value
        self.token_ids("logit_bias", list(pairs))
        return sorted(pairs.items())


def search_defaults(defaults: SamplingDefaults) -> SamplingDefaults:
    """A beam search draws nothing: what the model's generation_config.json says of that is not for it."""
    return replace(defaults, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)


def num_listed(request: ChatRequest | CompletionRequest) -> int | None:
    """How many tokens are listed beside each generated one, -1: all that came. None: no log-probabilities."""
    if request.logprob_token_ids:
        return -1
    if isinstance(request, CompletionRequest):
        return request.logprobs
    return request.top_logprobs if request.logprobs else None


def first(asked: float | None, default: float) -> float:
    return default if asked is None else asked


def out_of_range(request: GenerationRequest) -> str:
    """The field with a negative number where only counts are allowed."""
    for name in ("n", "top_k"):
        value = getattr(request, name)
        if value is not None and value < 0:
            return name
    return "request"


def stop_strings(stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    if len(stops) > MAX_STOP_STRINGS:
        raise ApiError(400, f"stop: at most {MAX_STOP_STRINGS} strings, not {len(stops)}.", "stop")
    for string in stops:
        if not string:
            raise ApiError(400, "stop: a stop string must not be empty.", "stop")
        if len(string) > MAX_STOP_CHARACTERS:
            raise ApiError(400, f"stop: a stop string has at most {MAX_STOP_CHARACTERS} characters.", "stop")
    return stops
