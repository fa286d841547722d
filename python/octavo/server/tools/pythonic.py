"""Calls as Python writes them: `[f(a=1), g(b="x")]`, one list on a line of its own; in OLMo, one call a line.

A call begins when its first argument is complete; each further one follows when it is.
"""

import json
import re

from octavo.server.markup.reader import SPACE, Malformed, Reader, Reading
from octavo.server.markup.sink import Sink
from octavo.server.tools.marked import Format
from octavo.server.tools.python_value import python_value

_NAME_RUN = re.compile(r"[\w.\-]+")
_ARGUMENT_RUN = re.compile(r"\w+")


def _word(reader: Reader, pattern: re.Pattern[str]) -> Reading[str]:
    pieces: list[str] = []
    yield from reader.matching(pattern, pieces.append)
    if not pieces:
        raise Malformed
    return "".join(pieces)


def read_python_call(reader: Reader, sink: Sink) -> Reading[None]:
    """Reads `name(argument=literal, …)`. Malformed as json_text.read_call; what began is then a complete object."""
    name = yield from _word(reader, _NAME_RUN)
    yield from reader.expect("(")
    begun = False
    try:
        while (yield from reader.skip(SPACE + ",")) != ")":
            argument = yield from _word(reader, _ARGUMENT_RUN)
            yield from reader.skip()
            yield from reader.expect("=")
            value = yield from python_value(reader)
            if (yield from reader.skip()) not in (",", ")"):
                raise Malformed
            if not begun:
                sink.start(name)
            sink.arguments(f"{', ' if begun else '{'}{json.dumps(argument)}: {value}")
            begun = True
            reader.mark()
    except Malformed:
        if begun:
            sink.arguments("}")
        raise
    reader.position += 1
    if not begun:
        sink.start(name)
    sink.arguments("}" if begun else "{}")
    reader.mark()


def read_python_list(reader: Reader, sink: Sink) -> Reading[None]:
    """Reads `[call, …]`."""
    yield from reader.skip()
    yield from reader.expect("[")
    num_calls = sink.num_calls
    while (yield from reader.skip(SPACE + ",")) != "]":
        yield from read_python_call(reader, sink)
    reader.position += 1
    if sink.num_calls == num_calls:
        raise Malformed


def read_python_lines(reader: Reader, sink: Sink) -> Reading[None]:
    """Calls one behind the other, up to what is none."""
    while (yield from reader.skip()) not in ("<", ""):
        yield from read_python_call(reader, sink)


PYTHONIC = Format(
    opens=("<|python_start|>",), closes=("<|python_end|>",), body=read_python_list, line_starts="[", between=SPACE
)
LFM2 = Format(opens=("<|tool_call_start|>",), closes=("<|tool_call_end|>",), body=read_python_list, between=SPACE)
OLMO3 = Format(opens=("<function_calls>",), closes=("</function_calls>",), body=read_python_lines, between=SPACE)
