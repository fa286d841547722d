"""What a model's output consists of, once its markup is read: the parts of a message, and what makes them of text."""

from typing import Protocol

import msgspec


class Content(msgspec.Struct, frozen=True):
    """Text for the reader."""

    text: str


class Reasoning(msgspec.Struct, frozen=True):
    """Text that the model wrote before its answer."""

    text: str


class ToolCallStart(msgspec.Struct, frozen=True):
    """A call begins; its arguments follow as ToolCallArguments of the same index."""

    index: int
    """The number of the call in its message, from 0."""
    id: str
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True):
    """The next piece of a call's arguments; all pieces together are one JSON object, unless the output was cut off."""

    index: int
    text: str


Part = Content | Reasoning | ToolCallStart | ToolCallArguments


class OutputParser(Protocol):
    """Reads the output of one choice piece by piece. However the text is cut, the parts are the same in total.

    The work is linear in the text. Malformed markup is no error: it is Content, as the model wrote it.
    """

    def push(self, text: str) -> list[Part]:
        """The parts that are certain with this text."""
        ...

    def finish(self) -> list[Part]:
        """What was held back, at the end of the output."""
        ...


class PlainText:
    """For a request that asks for no markup to be read: all is Content."""

    def push(self, text: str) -> list[Part]:
        return [Content(text)] if text else []

    def finish(self) -> list[Part]:
        return []
