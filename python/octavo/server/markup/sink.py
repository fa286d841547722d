"""Where parsers put what they find, and how a grammar (a generator over a Reader) becomes an OutputParser."""

import re
import secrets
import string
from collections.abc import Callable, Collection, Generator

from octavo.server.markup.reader import Malformed, Reader
from octavo.server.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallStart

MAX_NAME_CHARACTERS = 256
"""A longer word is no function's name."""
_NAME = re.compile(rf"[^\s\"'`<>{{}}\[\]()|,;\ud800-\udfff]{{1,{MAX_NAME_CHARACTERS}}}")

MakeId = Callable[[int, str], str]
"""A call's number and its function → its id."""


def new_call_id(_index: int, _name: str) -> str:
    return f"chatcmpl-tool-{secrets.token_hex(16)}"


def mistral_call_id(_index: int, _name: str) -> str:
    """Mistral's templates refuse any other form."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def kimi_call_id(index: int, name: str) -> str:
    """Kimi's template shows the id to the model, which was trained on this form."""
    return f"functions.{name}:{index}"


class Sink:
    """Collects the parts of one choice."""

    def __init__(self, *, names: Collection[str] | None = None, make_id: MakeId = new_call_id) -> None:
        """`names`: the functions that may be called; None: whatever the model calls."""
        self.parts: list[Part] = []
        self.num_calls = 0
        self._names = names
        self._make_id = make_id

    def content(self, text: str) -> None:
        if text:
            self.parts.append(Content(text))

    def reasoning(self, text: str) -> None:
        if text:
            self.parts.append(Reasoning(text))

    def start(self, name: str) -> None:
        """Begins a call. Malformed when this cannot be a function's name, or not one that may be called."""
        if _NAME.fullmatch(name) is None or (self._names is not None and name not in self._names):
            raise Malformed
        self.parts.append(ToolCallStart(self.num_calls, self._make_id(self.num_calls, name), name))
        self.num_calls += 1

    def arguments(self, text: str) -> None:
        """The next piece of the newest call's arguments."""
        if text:
            self.parts.append(ToolCallArguments(self.num_calls - 1, text))

    def take(self) -> list[Part]:
        parts, self.parts = self.parts, []
        return parts


Grammar = Callable[[Reader, Sink], Generator[None, None, None]]


class GrammarParser:
    """Runs a grammar over text that comes in pieces (parts.OutputParser)."""

    def __init__(self, grammar: Grammar, sink: Sink | None = None) -> None:
        self._sink = Sink() if sink is None else sink
        self._reader = Reader()
        self._run = grammar(self._reader, self._sink)
        self._running = True
        self._go_on()

    def _go_on(self) -> None:
        if self._running:
            self._running = next(self._run, True) is None

    def push(self, text: str) -> list[Part]:
        if text:
            self._reader.feed(text)
            self._go_on()
        return self._sink.take()

    def finish(self) -> list[Part]:
        self._reader.ended = True
        self._go_on()
        return self._sink.take()
