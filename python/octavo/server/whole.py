"""A completion in one piece: the same events as a stream's, collected. (Chat: conversation.py.)"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from octavo._core import Accepted, Delta
from octavo.server.answer import Answer


@dataclass
class ChoiceResult:
    """One finished choice."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    """One entry a delta, in the route's shape."""
    finish_reason: str = "abort"
    stop_reason: int | str | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


async def collect(
    answer: Answer,
    *,
    keep_token_ids: bool,
    logprobs: Callable[[int, Delta], Any] | None,
    accepted: Callable[[int], None] | None = None,
) -> list[ChoiceResult]:
    """Waits for every choice. `accepted` is told each prompt that the engine took. Raises ApiError when one fails."""
    results = [ChoiceResult() for _ in range(answer.num_prompts * answer.n)]
    while not answer.stream.done:
        for event in await answer.stream.next():
            if isinstance(event, Delta):
                choice = answer.take(event)
                result = results[choice]
                if event.text:
                    result.texts.append(event.text)
                if keep_token_ids:
                    result.token_ids += event.token_ids
                if logprobs is not None and event.num_tokens:
                    result.logprobs.append(logprobs(choice, event))
                if event.finish_reason is not None:
                    result.finish_reason, result.stop_reason = event.finish_reason, event.stop_reason
            elif isinstance(event, Accepted):
                prompt = answer.accept(event, keep_ids=keep_token_ids)
                if accepted is not None:
                    accepted(prompt)
            else:
                raise answer.fail(event)
    answer.log_end("answered")
    return results


def json_answer(body: msgspec.Struct) -> web.Response:
    """`body` as a response."""
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
