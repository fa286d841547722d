"""The bytes of server-sent events. What is constant in a stream is encoded once, so a token costs one small encode."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from octavo.server.protocol import RequestMetrics, Usage

DONE = b"data: [DONE]\n\n"
NULL = b"null"
encode = msgspec.json.Encoder().encode


class ChunkEncoder:
    """Chunks of one answer with `num_choices` choices."""

    def __init__(
        self, *, id: str, object: str, created: int, model: str, num_choices: int, before: bytes, after: bytes
    ) -> None:
        """`before` and `after` stand around a choice's text: chat wraps it in a delta."""
        start = b'data: {"id":%b,"object":%b,"created":%d,"model":%b' % (
            encode(id),
            encode(object),
            created,
            encode(model),
        )
        self._start = start
        self._choices = [b'%b,"choices":[{"index":%d' % (start, choice) for choice in range(num_choices)]
        self._before = before
        self._after = after
        self._heads = [choice + before for choice in self._choices]
        self._tail = after + b',"logprobs":null,"finish_reason":null}]}\n\n'

    def text(self, choice: int, text: str) -> bytes:
        """The chunk of a token when nothing else is to be said of it."""
        return self._heads[choice] + encode(text) + self._tail

    def full(
        self,
        choice: int,
        text: str,
        *,
        logprobs: Any = None,
        finish: tuple[str, int | str | None] | None = None,
        token_ids: list[int] | None = None,
        prompt_token_ids: list[int] | None = None,
        usage: Usage | None = None,
    ) -> bytes:
        """A chunk with all there can be. `finish`: (finish_reason, stop_reason)."""
        body = b"%b%b%b" % (self._before, encode(text), self._after)
        return self.chunk(choice, body, logprobs, finish, token_ids, prompt_token_ids, usage)

    def chunk(
        self,
        choice: int,
        body: bytes,
        logprobs: Any = None,
        finish: tuple[str, int | str | None] | None = None,
        token_ids: list[int] | None = None,
        prompt_token_ids: list[int] | None = None,
        usage: Usage | None = None,
    ) -> bytes:
        """As `full`; `body` is `,"text":…` or `,"delta":…`."""
        parts = [self._choices[choice], body, b',"logprobs":', encode(logprobs)]
        if finish is None:
            parts.append(b',"finish_reason":null')
        else:
            parts += [b',"finish_reason":', encode(finish[0]), b',"stop_reason":', encode(finish[1])]
        if token_ids is not None:
            parts += [b',"token_ids":', encode(token_ids)]
        if prompt_token_ids is not None:
            parts += [b',"prompt_token_ids":', encode(prompt_token_ids)]
        parts.append(b"}]")
        if usage is not None:
            parts += [b',"usage":', encode(usage)]
        parts.append(b"}\n\n")
        return b"".join(parts)

    def role(
        self, choice: int, role: str, *, prompt_token_ids: list[int] | None = None, usage: Usage | None = None
    ) -> bytes:
        """Chat's first chunk of a choice."""
        parts = [self._choices[choice], b',"delta":{"role":', encode(role)]
        parts.append(b',"content":""},"logprobs":null,"finish_reason":null}]')
        if prompt_token_ids is not None:
            parts += [b',"prompt_token_ids":', encode(prompt_token_ids)]
        if usage is not None:
            parts += [b',"usage":', encode(usage)]
        parts.append(b"}\n\n")
        return b"".join(parts)

    def usage(self, usage: Usage, metrics: RequestMetrics | UnsetType = UNSET) -> bytes:
        """The chunk without choices that ends a stream whose client asked for usage."""
        times = b"" if metrics is UNSET else b',"metrics":' + encode(metrics)
        return b'%b,"choices":[],"usage":%b%b}\n\n' % (self._start, encode(usage), times)
