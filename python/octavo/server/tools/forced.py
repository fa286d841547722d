"""Answers that a grammar has forced to be calls: plain JSON, whatever the model's own format."""

from functools import partial

from octavo.server.markup.json_text import pass_container, read_call
from octavo.server.markup.reader import Malformed, Reader, Reading
from octavo.server.markup.sink import Grammar, Sink


def named_call(name: str) -> Grammar:
    """The answer is the arguments of this function."""
    return partial(_read_arguments, name)


def _read_arguments(name: str, reader: Reader, sink: Sink) -> Reading[None]:
    if not (yield from reader.skip()):
        return
    sink.start(name)
    yield from pass_container(reader, sink.arguments)


def required_calls(reader: Reader, sink: Sink) -> Reading[None]:
    """The answer is an array of {"name", "parameters"}."""
    if (yield from reader.skip()) != "[":
        return
    reader.position += 1
    while (yield from reader.skip(" \t\n\r,")) == "{":
        try:
            yield from read_call(reader, sink)
        except Malformed:  # cut off before its name was complete
            return
