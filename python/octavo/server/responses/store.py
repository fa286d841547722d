"""Answers that clients may come back to: in memory, bounded in number and bytes; the longest unused go first.

Each is kept as JSON with the whole conversation up to it, so that its size is known, and forgetting one answer never
breaks another that came after it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

MAX_RESPONSES = 10_000
encode = msgspec.json.Encoder().encode


@dataclass
class Stored:
    response: bytes
    """The answer as JSON: what GET returns."""
    items: bytes
    """The conversation as JSON: the items that were the input, those of earlier answers before them."""
    output: bytes
    """The answer's own items, as JSON."""
    task: asyncio.Task[None] | None = None
    """What still works on it, in the background."""

    @property
    def size(self) -> int:
        return len(self.response) + len(self.items) + len(self.output)

    def conversation(self) -> list[dict[str, Any]]:
        """What an answer that follows this one begins with."""
        return [*msgspec.json.decode(self.items), *msgspec.json.decode(self.output)]


class Store:
    def __init__(self, max_bytes: int) -> None:
        """With `max_bytes` 0 nothing is stored."""
        self.max_bytes = max_bytes
        self.size = 0
        self._stored: OrderedDict[str, Stored] = OrderedDict()

    @property
    def enabled(self) -> bool:
        return self.max_bytes > 0

    def __len__(self) -> int:
        return len(self._stored)

    def get(self, response_id: str) -> Stored | None:
        """The answer, which is thereby the last used one."""
        stored = self._stored.get(response_id)
        if stored is not None:
            self._stored.move_to_end(response_id)
        return stored

    def put(self, response_id: str, stored: Stored) -> None:
        """Keeps it in place of what was there, and drops others until all fit. One in the making is not dropped."""
        self.delete(response_id)
        if stored.size > self.max_bytes:
            return
        self._stored[response_id] = stored
        self.size += stored.size
        while self.size > self.max_bytes or len(self._stored) > MAX_RESPONSES:
            oldest = next(self._droppable(response_id), None)
            if oldest is None:
                break
            self.delete(oldest)

    def delete(self, response_id: str) -> Stored | None:
        stored = self._stored.pop(response_id, None)
        if stored is not None:
            self.size -= stored.size
        return stored

    def _droppable(self, newest: str) -> Iterator[str]:
        return (name for name, stored in self._stored.items() if stored.task is None and name != newest)


STORE = web.AppKey("responses", Store)
