"""The prompts of one HTTP request on their way through the engine, a window of them at a time."""

import logging
import time
from collections.abc import Iterable, Iterator

from octavo._core import Delta, Failed, Pooled, Pooling
from octavo.pooling import PoolingParams, PoolingTask
from octavo.server.engine_client import Stream
from octavo.server.errors import ApiError, from_failure, printable
from octavo.server.pooling.inputs import Prompt
from octavo.server.pooling.protocol import PoolingFields, PoolingUsage
from octavo.server.service import Service

logger = logging.getLogger("octavo.requests")

WINDOW = 256
"""Prompts of one request that are with the engine at once: as many as a step takes, and fewer than its queue does."""
LARGE_ANSWER = 1 << 15
"""Numbers from which an answer is put together beside the event loop: some 10 ms."""


class Pool:
    """Prompts in, what they were pooled to out, and the counts."""

    def __init__(
        self, service: Service, stream: Stream, asked: PoolingFields, *, id: str, model: str, field: str
    ) -> None:
        """`field` is where the prompts came from: what an error names."""
        service.check_priority(asked.priority)
        stream.name = id
        self.service = service
        self.stream = stream
        self.asked = asked
        self.id = id
        self.model = model
        self.created = int(time.time())
        self.prompt_tokens = 0
        self._field = field
        self._index: dict[int, int] = {}

    async def run(
        self, prompts: Iterable[Prompt], pooling: Pooling, *, add_special_tokens: bool = True
    ) -> list[Pooled]:
        """One for each prompt, in their order. Raises ApiError when one of them fails."""
        waiting = enumerate(prompts)
        results: dict[int, Pooled] = {}
        while self._submit(waiting, pooling, add_special_tokens):
            for event in await self.stream.next():
                if isinstance(event, Failed):
                    raise self._fail(event)
                if isinstance(event, Delta):
                    raise ApiError(503, "The request was aborted.")
            for pooled in self.stream.take_pooled():
                results[self._index.pop(pooled.request)] = pooled
                self.prompt_tokens += pooled.num_prompt_tokens
                self.service.metrics.saw_finish("stop", None, pooled.num_prompt_tokens, 0)
        return [results[index] for index in range(len(results))]

    def _submit(self, waiting: Iterator[tuple[int, Prompt]], pooling: Pooling, add_special_tokens: bool) -> bool:
        """Fills the window; whether anything is under way."""
        asked = self.asked
        while len(self._index) < WINDOW and (item := next(waiting, None)) is not None:
            index, prompt = item
            request = self.stream.submit_pooling(
                prompt,
                pooling,
                add_special_tokens=add_special_tokens,
                truncate_prompt_tokens=asked.truncate_prompt_tokens,
                truncation_side=asked.truncation_side,
                priority=asked.priority,
                cache_salt=asked.cache_salt,
            )
            self._index[request] = index
        return bool(self._index)

    def _fail(self, event: Failed) -> ApiError:
        self.service.metrics.saw_failure(event.reason)
        error = from_failure(event)
        if error.param == "prompt":
            error.param = self._field
        return error

    @property
    def usage(self) -> PoolingUsage:
        return PoolingUsage(self.prompt_tokens, self.prompt_tokens)

    def log(self, route: str, count: int) -> None:
        if self.service.config.enable_log_requests:
            seconds = time.time() - self.created
            shown = (route, printable(self.id), printable(self.model), count, self.prompt_tokens, seconds)
            logger.info("%s %s: model=%s inputs=%d prompt_tokens=%d seconds=%.1f", *shown)


def params_of(
    service: Service, asked: PoolingFields, *, use_activation: bool | None, dimensions: int | None = None
) -> PoolingParams:
    """Raises ApiError 400 that names the field."""
    if asked.truncate_prompt_tokens == 0:
        raise ApiError(400, "truncate_prompt_tokens: must be -1, or 1 or more.", "truncate_prompt_tokens")
    try:
        service.pooling.check_dimensions(dimensions)
    except ValueError as error:
        raise ApiError(400, f"{error}.", "dimensions") from None
    return PoolingParams(dimensions=dimensions, use_activation=use_activation)


def choose_task(service: Service, *tasks: PoolingTask) -> PoolingTask:
    """The first of `tasks` that the model has. Raises ApiError 400 that says what the server needs for them."""
    try:
        return service.pooling.choose(*tasks)
    except ValueError as error:
        message = f"{error}."
        raise ApiError(400, message[0].upper() + message[1:], "model") from None
