"""From a front end's events to finished `RequestOutput`s."""

import time

from octavo._core import Accepted, Delta, Failed, Tokenizer
from octavo.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput


class Collector:
    """Puts the events of one call together to outputs."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._outputs: dict[int, RequestOutput] = {}
        self.pending: set[int] = set()
        self.failure: Exception | None = None
        """Of the first request that failed: ValueError for what the caller can put right, else RuntimeError."""
        self._num_tokens = 0
        self._began = time.monotonic()

    def open(self, request: int, prompt: str | None, n: int) -> None:
        choices = [CompletionOutput(index=index) for index in range(n)]
        self._outputs[request] = RequestOutput(str(request), prompt, [], choices)
        self.pending.add(request)

    def take(self, event: Accepted | Delta | Failed) -> bool:
        """True when the event was a request's last one."""
        if isinstance(event, Failed):
            self.pending.discard(event.request)
            if self.failure is None:
                message = f"{event.param}: {event.message}" if event.param else event.message
                self.failure = ValueError(message) if event.reason == "invalid" else RuntimeError(message)
            return True
        output = self._outputs.get(event.request)
        if output is None:
            return False
        if isinstance(event, Accepted):
            output.prompt_token_ids = event.prompt_token_ids
            return False
        self._append(output, event)
        if event.finish_reason is None or not all(choice.finished() for choice in output.outputs):
            return False
        output.finished = True
        self.pending.discard(event.request)
        return True

    def speed(self) -> str:
        return f"{self._num_tokens / max(time.monotonic() - self._began, 1e-9):.1f} tokens/s"

    def results(self) -> list[RequestOutput]:
        return list(self._outputs.values())

    def _append(self, output: RequestOutput, delta: Delta) -> None:
        choice = output.outputs[delta.index]
        token_ids = delta.token_ids
        self._num_tokens += len(token_ids)
        choice.token_ids += token_ids
        choice.text += delta.text
        if delta.logprobs is not None:
            choice.logprobs = choice.logprobs if choice.logprobs is not None else []
            for token, entry in zip(token_ids, delta.logprobs, strict=True):
                entries = {token: Logprob(entry.logprob, entry.rank, self._spell(token))}
                for rank, (candidate, logprob) in enumerate(entry.top, start=1):
                    entries.setdefault(candidate, Logprob(logprob, rank, self._spell(candidate)))
                choice.logprobs.append(entries)
                choice.cumulative_logprob = (choice.cumulative_logprob or 0.0) + entry.logprob
        output.num_cached_tokens = delta.num_cached_tokens
        if delta.finish_reason is not None:
            choice.finish_reason, choice.stop_reason = delta.finish_reason, delta.stop_reason
        if delta.timings is not None and delta.index == 0:
            timings = delta.timings
            output.metrics = RequestMetrics(
                timings.arrival, timings.scheduled, timings.first_token, timings.last_token, timings.num_preemptions
            )

    def _spell(self, token: int) -> str | None:
        return None if self._tokenizer is None else self._tokenizer.decode([token], skip_special_tokens=False)
