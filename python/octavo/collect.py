"""From a front end's events to `RequestOutput`s.

`take` keeps what an event brings. `news` gives the outputs that have changed, as each request's RequestOutputKind says;
`pop` gives finished ones. Who streams calls `news` after every batch of events, who waits calls `pop` at the end.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from octavo._core import Accepted, Delta, Failed, Pooled, Tokenizer, TokenLogprobs
from octavo.errors import EngineDeadError
from octavo.outputs import (
    CompletionOutput,
    Logprob,
    PoolingOutput,
    PoolingRequestOutput,
    RequestMetrics,
    RequestOutput,
)
from octavo.sampling import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from octavo.server.metrics import Metrics


@dataclass(slots=True)
class _Request:
    output: RequestOutput
    kind: RequestOutputKind
    named: bool
    """Whether the tokens beside the chosen one are those that the caller named, and have no rank."""
    seen: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Choice → how much of its text and of its tokens `news` has given."""


class Collector:
    """Puts the events of requests together to outputs."""

    def __init__(self, tokenizer: Tokenizer | None, metrics: "Metrics | None" = None) -> None:
        """`metrics` is told of every choice that ends."""
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._requests: dict[int, _Request] = {}
        self._accepted: dict[int, tuple[str, list[int]]] = {}
        """Of requests to be pooled: the request's id and the prompt's token ids, empty until it is accepted."""
        self._pooled: dict[int, PoolingRequestOutput] = {}
        self._changed: dict[int, set[int]] = {}
        """Request → choices with something new since the last `news`."""
        self.pending: set[int] = set()
        """Requests that have not ended."""
        self.failures: dict[int, Exception] = {}
        """Of requests that failed: ValueError for what the caller can put right, else RuntimeError."""
        self.num_tokens = 0

    def open(
        self,
        request: int,
        prompt: str | None,
        n: int,
        *,
        request_id: str | None = None,
        kind: RequestOutputKind = RequestOutputKind.FINAL_ONLY,
        params: SamplingParams | None = None,
    ) -> None:
        choices = [CompletionOutput(index=index) for index in range(n)]
        output = RequestOutput(str(request) if request_id is None else request_id, prompt, [], choices)
        named = False
        if params is not None:
            output.prompt_logprobs = None if params.prompt_logprobs is None else [None]
            named = bool(params.logprob_token_ids)
        self._requests[request] = _Request(output, kind, named)
        self.pending.add(request)

    def open_pooling(self, request: int, *, request_id: str | None = None) -> None:
        """The prompt of this request is pooled, and generates nothing."""
        self._accepted[request] = (str(request) if request_id is None else request_id, [])
        self.pending.add(request)

    def take(self, event: Accepted | Delta | Pooled | Failed) -> bool:
        """True when the event was a request's last one."""
        if isinstance(event, Failed):
            return self._fail(event)
        if event.request in self._accepted:
            return self._take_pooling(event)
        if isinstance(event, Pooled):
            return False
        request = self._requests.get(event.request)
        if request is None:
            return False
        output = request.output
        if isinstance(event, Accepted):
            output.prompt_token_ids = event.prompt_token_ids
            return False
        self._append(request, event)
        if request.kind is not RequestOutputKind.FINAL_ONLY:
            self._changed.setdefault(event.request, set()).add(event.index)
        if event.finish_reason is None:
            return False
        if self._metrics is not None:
            generated = len(output.outputs[event.index].token_ids)
            self._metrics.saw_finish(event.finish_reason, event.timings, len(output.prompt_token_ids), generated)
        if not all(choice.finished() for choice in output.outputs):
            return False
        output.finished = True
        self.pending.discard(event.request)
        if request.kind is RequestOutputKind.FINAL_ONLY:
            self._changed.setdefault(event.request, set())
        return True

    def is_accepted(self, request: int) -> bool:
        """Whether the prompt of an open request has been tokenized and taken."""
        if request in self._accepted:
            return bool(self._accepted[request][1])
        return request in self._requests and bool(self._requests[request].output.prompt_token_ids)

    def news(self) -> list[RequestOutput | PoolingRequestOutput]:
        """Each request that has changed, as its kind wants it; what has finished is forgotten here."""
        changed, self._changed = self._changed, {}
        outputs: list[RequestOutput | PoolingRequestOutput] = [*self._pooled.values()]
        self._pooled.clear()
        for number, choices in changed.items():
            request = self._requests[number]
            outputs.append(_shown(request, choices))
            if request.output.finished:
                del self._requests[number]
        return outputs

    def pop(self, requests: Iterable[int]) -> list[RequestOutput]:
        """The outputs of these requests, which have ended, in their order."""
        outputs = []
        for number in requests:
            self._changed.pop(number, None)
            outputs.append(self._requests.pop(number).output)
        return outputs

    def pop_pooled(self, requests: Iterable[int]) -> list[PoolingRequestOutput]:
        """What the prompts of these requests, which have ended, were pooled to, in their order."""
        return [self._pooled.pop(request) for request in requests]

    def forget(self, requests: Iterable[int]) -> None:
        """Nobody will ask for these any more; they have ended."""
        for number in requests:
            self._requests.pop(number, None)
            self._pooled.pop(number, None)
            self._changed.pop(number, None)
            self.failures.pop(number, None)

    def _fail(self, event: Failed) -> bool:
        if self._requests.pop(event.request, None) is None and self._accepted.pop(event.request, None) is None:
            return False
        self.pending.discard(event.request)
        self._changed.pop(event.request, None)
        self.failures[event.request] = failure(event)
        if self._metrics is not None:
            self._metrics.saw_failure(event.reason)
        return True

    def _take_pooling(self, event: Accepted | Delta | Pooled) -> bool:
        if isinstance(event, Accepted):
            self._accepted[event.request][1].extend(event.prompt_token_ids)
            return False
        request_id, token_ids = self._accepted.pop(event.request)
        self.pending.discard(event.request)
        if isinstance(event, Pooled):  # else it was aborted
            from octavo.vectors import array_of  # NumPy is of no use to those who never pool

            self.num_tokens += event.num_prompt_tokens
            self._pooled[event.request] = PoolingRequestOutput(
                request_id=request_id,
                prompt_token_ids=token_ids,
                num_cached_tokens=event.num_cached_tokens,
                outputs=PoolingOutput(array_of(event)),
            )
            if self._metrics is not None:
                self._metrics.saw_finish("stop", None, event.num_prompt_tokens, 0)
        return True

    def _append(self, request: _Request, delta: Delta) -> None:
        output = request.output
        if output.prompt_logprobs is not None:
            for entry in delta.prompt_logprobs:
                token = output.prompt_token_ids[len(output.prompt_logprobs)]
                output.prompt_logprobs.append(self._entries(token, entry, named=False))
        choice = output.outputs[delta.index]
        token_ids = delta.token_ids
        self.num_tokens += len(token_ids)
        choice.token_ids += token_ids
        choice.text += delta.text
        if delta.logprobs is not None:
            choice.logprobs = choice.logprobs if choice.logprobs is not None else []
            for token, entry in zip(token_ids, delta.logprobs, strict=True):
                choice.logprobs.append(self._entries(token, entry, named=request.named))
                choice.cumulative_logprob = (choice.cumulative_logprob or 0.0) + entry.logprob
        output.num_cached_tokens = delta.num_cached_tokens
        if delta.finish_reason is not None:
            choice.finish_reason, choice.stop_reason = delta.finish_reason, delta.stop_reason
        if delta.timings is not None and delta.index == 0:
            timings = delta.timings
            output.metrics = RequestMetrics(
                timings.arrival, timings.scheduled, timings.first_token, timings.last_token, timings.num_preemptions
            )

    def _entries(self, token: int, values: TokenLogprobs, *, named: bool) -> dict[int, Logprob]:
        entries = {token: Logprob(values.logprob, values.rank, self._spell(token))}
        for rank, (candidate, logprob) in enumerate(values.top, start=1):
            if candidate not in entries:
                entries[candidate] = Logprob(logprob, None if named else rank, self._spell(candidate))
        return entries

    def _spell(self, token: int) -> str | None:
        return None if self._tokenizer is None else self._tokenizer.decode([token], skip_special_tokens=False)


def failure(event: Failed) -> Exception:
    """What a caller in Python gets for a request that failed."""
    if event.reason == "engine_died":
        return EngineDeadError()
    message = f"{event.param}: {event.message}" if event.param else event.message
    return ValueError(message) if event.reason == "invalid" else RuntimeError(message)


def _shown(request: _Request, changed: set[int]) -> RequestOutput:
    """The output as its kind wants it. What goes on growing is copied."""
    output = request.output
    if request.kind is RequestOutputKind.FINAL_ONLY:
        return output
    if request.kind is RequestOutputKind.CUMULATIVE:
        copies = [replace(each, token_ids=list(each.token_ids), logprobs=_from(each, 0)) for each in output.outputs]
        return replace(output, outputs=copies)
    parts = []
    for index in sorted(changed):
        choice = output.outputs[index]
        characters, tokens = request.seen.get(index, (0, 0))
        request.seen[index] = (len(choice.text), len(choice.token_ids))
        new = replace(
            choice,
            text=choice.text[characters:],
            token_ids=choice.token_ids[tokens:],
            logprobs=_from(choice, tokens),
        )
        parts.append(new)
    return replace(output, outputs=parts)


def _from(choice: CompletionOutput, start: int) -> list[dict[int, Logprob]] | None:
    return None if choice.logprobs is None else choice.logprobs[start:]
