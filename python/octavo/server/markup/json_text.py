"""JSON that models write, value by value: read by its brackets and strings alone, and passed on as it stands.

What JSON forbids in a string and models write, line breaks and backslashes that escape nothing, is escaped on the way.
"""

import json
import re
from collections.abc import Callable

from octavo.server.markup.reader import Malformed, Reader, Reading
from octavo.server.markup.sink import MAX_NAME_CHARACTERS, Sink

_CONTROL = re.compile(r"[\x00-\x1f]")
_STRING_RUN = re.compile(r'[^"\\]+')
_PLAIN_RUN = re.compile(r'[^"{}\[\]]+')
_SCALAR_RUN = re.compile(r"[^,}\]\s]+")
_ESCAPES = frozenset('"\\/bfnrtu')
MAX_KEY_CHARACTERS = 64

Keep = Callable[[str], None]


def escape_control(text: str) -> str:
    """Text from within a JSON string, with control characters escaped."""
    return _CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], text)


def whole_characters(text: str) -> str:
    """`text` with halves of characters (lone surrogates, from escapes) joined, or replaced: no UTF-8 has them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def pass_string(reader: Reader, keep: Keep) -> Reading[bool]:
    """Passes on a string, its quotes included; whether it ended. The opening quote comes next."""
    yield from reader.peek()
    reader.position += 1
    keep('"')
    while True:
        following = yield from reader.matching(_STRING_RUN, lambda text: keep(escape_control(text)))
        if not following:
            return False
        reader.position += 1
        if following == '"':
            keep('"')
            return True
        escaped = yield from reader.peek()
        if not escaped:
            return False
        reader.position += 1
        keep("\\" + escaped if escaped in _ESCAPES else "\\\\" + escape_control(escaped))


def pass_container(reader: Reader, keep: Keep) -> Reading[bool]:
    """Passes on an object or array; whether it ended. Its bracket comes next."""
    depth = 0
    while True:
        following = yield from reader.matching(_PLAIN_RUN, keep)
        if not following:
            return False
        if following == '"':
            if not (yield from pass_string(reader, keep)):
                return False
            continue
        reader.position += 1
        keep(following)
        depth += 1 if following in "{[" else -1
        if depth == 0:
            return True


def read_string(reader: Reader, limit: int) -> Reading[str]:
    """A short string's value. Malformed when none comes, or it is longer than `limit`, or cut off."""
    if (yield from reader.peek()) != '"':
        raise Malformed
    pieces: list[str] = []
    ended = yield from pass_string(reader, pieces.append)
    text = "".join(pieces)
    if not ended or len(text) > limit + 2:
        raise Malformed
    try:
        return str(json.loads(text))
    except ValueError:
        raise Malformed from None


def pass_arguments(reader: Reader, keep: Keep) -> Reading[None]:
    """Passes on a value as a call's arguments: null is no arguments, a string is JSON within JSON."""
    following = yield from reader.skip()
    if following in ("{", "["):
        yield from pass_container(reader, keep)
    elif following == '"':
        pieces: list[str] = []
        ended = yield from pass_string(reader, pieces.append)
        keep(_inner(pieces) if ended else "".join(pieces))
    else:
        scalar = yield from _scalar(reader)
        keep("{}" if scalar in ("null", "None", "") else scalar)


def _inner(pieces: list[str]) -> str:
    text = "".join(pieces)
    try:
        inner = json.loads(text)
    except ValueError:
        return text
    return whole_characters(inner) if inner.strip() else "{}"


def _scalar(reader: Reader) -> Reading[str]:
    pieces: list[str] = []
    yield from reader.matching(_SCALAR_RUN, pieces.append)
    return "".join(pieces)


def skip_value(reader: Reader) -> Reading[None]:
    """Reads a value and drops it."""
    following = yield from reader.skip()
    ended = True
    if following in ("{", "["):
        ended = yield from pass_container(reader, _drop)
    elif following == '"':
        ended = yield from pass_string(reader, _drop)
    else:
        yield from _scalar(reader)
    if not ended:
        raise Malformed


def _drop(_text: str) -> None:
    pass


ARGUMENT_KEYS = ("arguments", "parameters")
NAME_KEYS = ("name", "function", "tool_name")
OTHER_KEYS = ("type", "id", "index", "tool_call_id")
"""What else an object that is a call may hold."""


def read_call(reader: Reader, sink: Sink, *, needs_arguments: bool = False, nested: bool = False) -> Reading[None]:
    """Reads `{"name": …, "arguments": {…}}` as one call; keys in any order.

    The call begins as soon as its name is known and its arguments begin; with `needs_arguments`, an object without
    arguments is no call. "function" may hold the name, or the call itself, as OpenAI writes it. Malformed where it is
    no call, or no longer one; `reader.marked()` then has what does not belong to a call.
    """
    if (yield from reader.skip()) != "{":
        raise Malformed
    reader.position += 1
    call = _JsonCall(reader, sink)
    while (yield from reader.skip(" \t\n\r,")) != "}":
        key = yield from read_string(reader, MAX_KEY_CHARACTERS)
        yield from reader.skip()
        yield from reader.expect(":")
        following = yield from reader.skip()
        if key == "function" and following == "{" and not nested and not call.has_name:
            yield from read_call(reader, sink, needs_arguments=needs_arguments, nested=True)
            call.has_name = call.begun = True
        elif key in NAME_KEYS and not call.has_name:
            yield from call.read_name()
        elif key in ARGUMENT_KEYS and not call.begun:
            yield from call.read_arguments()
        elif key in NAME_KEYS or key in ARGUMENT_KEYS or key in OTHER_KEYS:
            yield from skip_value(reader)
        else:
            raise Malformed
    reader.position += 1
    call.end(needs_arguments)


class _JsonCall:
    """A call in the making. While its arguments are read, nothing is marked; what follows them is."""

    def __init__(self, reader: Reader, sink: Sink) -> None:
        self.reader = reader
        self.sink = sink
        self.has_name = False
        self.begun = False
        self._name = ""
        self._early: list[str] | None = None
        """Arguments that came before the name."""

    def read_name(self) -> Reading[None]:
        self._name = yield from read_string(self.reader, MAX_NAME_CHARACTERS)
        self.has_name = True
        if self._early is not None:
            self._begin()
            self.sink.arguments("".join(self._early))
            self.reader.mark()

    def read_arguments(self) -> Reading[None]:
        if not self.has_name:
            self._early = []
            yield from pass_arguments(self.reader, self._early.append)
            return
        self._begin()
        yield from pass_arguments(self.reader, self.sink.arguments)
        self.reader.mark()

    def _begin(self) -> None:
        self.sink.start(self._name)
        self.begun = True
        self.reader.marked()

    def end(self, needs_arguments: bool) -> None:
        if not self.begun:
            if not self.has_name or needs_arguments:
                raise Malformed
            self._begin()
            self.sink.arguments("{}")
        self.reader.mark()


def read_calls(reader: Reader, sink: Sink, *, needs_arguments: bool = False) -> Reading[None]:
    """One call, or an array of them. Malformed as for `read_call`."""
    if (yield from reader.skip()) != "[":
        yield from read_call(reader, sink, needs_arguments=needs_arguments)
        return
    reader.position += 1
    before = sink.num_calls
    while (yield from reader.skip(" \t\n\r,")) != "]":
        yield from read_call(reader, sink, needs_arguments=needs_arguments)
    reader.position += 1
    if sink.num_calls == before:
        raise Malformed
