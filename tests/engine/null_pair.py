"""An engine without a model, turned by hand: every sampled token is `TOKEN`."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from octavo._core import Accepted, Delta, Engine, Failed, Frontend, Sampling, Tokenizer
from octavo.backends.null import NullBackend
from octavo.engine.loop import EngineLoop

TOKEN = 5
VOCABULARY = ["<s>", "</s>", "a", "b", "c", "xy", "é", "z"]
EOS = 1
DEADLINE = 20.0
"""Seconds. A test that gets here has failed; a passing one waits for events, not for time."""

Event = Accepted | Delta | Failed


def word_tokenizer() -> Tokenizer:
    """One token a word of VOCABULARY; words are joined without spaces."""
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    special = [
        {
            "id": index,
            "content": VOCABULARY[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index in (0, EOS)
    ]
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"},
    }
    return Tokenizer.from_json(json.dumps(data).encode())


@dataclass
class Pair:
    """A front end, an engine, and the events that came."""

    frontend: Frontend
    engine: Engine
    backend: NullBackend
    events: list[Event] = field(default_factory=list)

    def run(self, done: Callable[["Pair"], bool] | None = None) -> list[Event]:
        """Turns until `done`, or until no request is open; returns the events of this call."""
        first = len(self.events)
        deadline = time.monotonic() + DEADLINE
        while True:
            self.events += self.frontend.drain()
            if done(self) if done is not None else self.frontend.num_open == 0 and self.idle():
                # The last event came before the request stopped being open, but perhaps after the drain above.
                self.events += self.frontend.drain()
                return self.events[first:]
            assert time.monotonic() < deadline, f"still open: {self.frontend.num_open}, events: {self.events[first:]}"
            if not EngineLoop(self.engine, self.backend).turn(timeout=0.0):
                self.frontend.wait(0.01)

    def idle(self) -> bool:
        stats = self.engine.stats
        return stats.num_running == 0 and stats.num_waiting == 0

    def of(self, request: int) -> list[Event]:
        return [event for event in self.events if event.request == request]

    def tokens(self, request: int, index: int = 0) -> list[int]:
        deltas = [event for event in self.of(request) if isinstance(event, Delta) and event.index == index]
        return [token for delta in deltas for token in delta.token_ids]

    def text(self, request: int, index: int = 0) -> str:
        return "".join(e.text for e in self.of(request) if isinstance(e, Delta) and e.index == index)

    def last(self, request: int) -> Event:
        return self.of(request)[-1]


def greedy(max_tokens: int | None = 8, **others: Any) -> Sampling:
    return Sampling(temperature=0.0, max_tokens=max_tokens, **others)
