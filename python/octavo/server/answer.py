"""One answer in the making, whole or streamed: which engine request is which prompt, and what has been counted.

Both ways take every event through `Answer`, so that usage, metrics and errors are the same.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from octavo._core import Accepted, Delta, Failed, Timings, TokenLogprobs
from octavo.server.engine_client import Stream
from octavo.server.errors import ApiError, from_failure, printable
from octavo.server.logprobs import list_prompt
from octavo.server.protocol import (
    CompletionTokensDetails,
    PromptLogprobs,
    PromptTokensDetails,
    RequestMetrics,
    Usage,
)
from octavo.server.sampling import Resolved
from octavo.server.service import Service

logger = logging.getLogger("octavo.requests")


class Answer:
    def __init__(self, service: Service, stream: Stream, *, id: str, model: str, n: int) -> None:
        self.service = service
        self.stream = stream
        stream.name = id
        self.id = id
        self.model = model
        self.n = n
        self.created = int(time.time())
        self.prompt_ids: dict[int, list[int]] = {}
        """Prompt number → its token ids, when asked for."""
        self.scores: dict[int, tuple[list[int], list[TokenLogprobs]]] = {}
        """Prompt number → its token ids and, from the second on, their log-probabilities, when asked for."""
        self.completion_tokens = 0
        self.reasoning_tokens: int | None = None
        """Those of completion_tokens that are reasoning; None where nothing tells."""
        self._scores_prompt = False
        self._prompt_of: dict[int, int] = {}
        self._prompt_tokens: dict[int, int] = {}
        self._cached_tokens: dict[int, int] = {}
        self._max_tokens: int | None = None
        self.structure_field: str | None = None
        """The field that asked for a structure of the output, if one did."""
        self._generated: defaultdict[int, int] = defaultdict(int)
        self._timings: list[Timings] = []
        self._started = time.monotonic()

    def submit(
        self,
        prompt: str | Sequence[int],
        resolved: Resolved,
        *,
        add_special_tokens: bool,
        priority: int,
        cache_salt: str,
    ) -> None:
        """Sends the next prompt to the engine."""
        request = self.stream.submit(
            prompt,
            resolved.sampling,
            n=self.n,
            add_special_tokens=add_special_tokens,
            clamp_max_tokens=resolved.clamp,
            priority=priority,
            cache_salt=cache_salt,
        )
        self._prompt_of[request] = len(self._prompt_of)
        self._max_tokens = resolved.max_tokens
        self.structure_field = resolved.structure_field
        self._scores_prompt = resolved.scores_prompt

    @property
    def num_prompts(self) -> int:
        return len(self._prompt_of)

    @property
    def num_accepted(self) -> int:
        return len(self._prompt_tokens)

    def accept(self, event: Accepted, *, keep_ids: bool) -> int:
        """Notes a prompt's length; returns the prompt's number."""
        prompt = self._prompt_of[event.request]
        self._prompt_tokens[prompt] = event.num_prompt_tokens
        metrics = self.service.metrics
        metrics.params_n.observe(self.n)
        if self._max_tokens is not None:
            metrics.params_max_tokens.observe(self._max_tokens)
        if keep_ids:
            self.prompt_ids[prompt] = event.prompt_token_ids
        if self._scores_prompt:
            self.scores[prompt] = (event.prompt_token_ids, [])
        return prompt

    def fail(self, event: Failed) -> Exception:
        """The error for a request that the engine refused or lost."""
        self.service.metrics.saw_failure(event.reason)
        error = from_failure(event)
        if event.param == "structured_outputs" and self.structure_field is not None:
            return ApiError(error.status, f"{self.structure_field}: {error.message}.", self.structure_field)
        return error

    def take(self, event: Delta) -> int:
        """Counts a delta; returns the number of its choice in the answer."""
        prompt = self._prompt_of[event.request]
        choice = prompt * self.n + event.index
        self.completion_tokens += event.num_tokens
        self._generated[choice] += event.num_tokens
        if self._scores_prompt and prompt in self.scores:
            self.scores[prompt][1].extend(event.prompt_logprobs)
        if event.finish_reason is not None:
            self._cached_tokens[prompt] = event.num_cached_tokens
            if event.timings is not None and event.timings.first_token:
                self._timings.append(event.timings)
            if event.index == 0:
                self.service.metrics.saw_prompt(self._prompt_tokens.get(prompt, 0), event.num_cached_tokens)
            self.service.metrics.saw_finish(
                event.finish_reason, event.timings, self._prompt_tokens.get(prompt, 0), self._generated[choice]
            )
        return choice

    def prompt_logprobs(self, prompt: int, num_top: int | None) -> PromptLogprobs | None:
        """Of a prompt's tokens, with so many of the best in their places; None: not asked for."""
        if num_top is None or prompt not in self.scores:
            return None
        return list_prompt(self.service.texts, *self.scores[prompt], num_top)

    def usage(self, *, details: bool = True) -> Usage:
        prompt_tokens = sum(self._prompt_tokens.values())
        cached = PromptTokensDetails(sum(self._cached_tokens.values()))
        usage = Usage(prompt_tokens, prompt_tokens + self.completion_tokens, self.completion_tokens)
        if details:
            usage.prompt_tokens_details = cached
            if self.reasoning_tokens is not None:
                usage.completion_tokens_details = CompletionTokensDetails(self.reasoning_tokens)
        return usage

    def metrics(self) -> RequestMetrics | UnsetType:
        """The times of the choices that have ended, when the server is to tell them."""
        times = self._timings
        if not self.service.config.enable_per_request_metrics or not times:
            return UNSET
        arrival, scheduled = min(each.arrival for each in times), min(each.scheduled for each in times)
        first, last = min(each.first_token for each in times), max(each.last_token for each in times)
        gaps = self.completion_tokens - len(times)
        return RequestMetrics(
            time_to_first_token_ms=1e3 * (first - arrival),
            generation_time_ms=1e3 * (last - first),
            queue_time_ms=1e3 * (scheduled - arrival),
            mean_itl_ms=1e3 * sum(each.last_token - each.first_token for each in times) / gaps if gaps > 0 else None,
            tokens_per_second=self.completion_tokens / (last - scheduled) if last > scheduled else None,
        )

    def log_start(self, route: str, peer: str | None) -> None:
        if self.service.config.enable_log_requests:
            shown = (printable(self.id), printable(self.model), self.num_prompts, self.n)
            logger.info("%s from %s: %s model=%s prompts=%d n=%d", route, peer, *shown)

    def log_end(self, how: str) -> None:
        if self.service.config.enable_log_requests:
            seconds = time.monotonic() - self._started
            usage = self.usage()
            shown = (usage.prompt_tokens, usage.completion_tokens, seconds)
            logger.info("%s %s: prompt_tokens=%d completion_tokens=%d seconds=%.3f", printable(self.id), how, *shown)
