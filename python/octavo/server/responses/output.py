"""An answer in the making: parts become items, and events tell of each change.

    response.created, response.in_progress
      output_item.added → content_part.added → …delta … → …done → content_part.done → output_item.done     each item
    response.completed | incomplete | failed

Whole answers go through the same code, with nobody listening: so they are what a stream adds up to.
"""

from collections.abc import Sequence
from typing import Any

from octavo.server.chunks import encode
from octavo.server.parts import Content, Part, Reasoning, ToolCallStart
from octavo.server.protocol import ChatLogprob
from octavo.server.responses.items import seal
from octavo.server.responses.protocol import (
    FunctionCall,
    Item,
    ItemStatus,
    Message,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Response,
)


class Events:
    """Events as bytes, numbered. `out` is emptied by whoever sends them."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.number = 0

    def tell(self, kind: str, **fields: Any) -> None:
        self.out.append(
            b"event: %b\ndata: %b\n\n"
            % (kind.encode(), encode({"type": kind, "sequence_number": self.number, **fields}))
        )
        self.number += 1

    def delta(self, start: bytes, text: str) -> None:
        """A delta whose event and other fields are in `start`: the one event that comes for every token."""
        self.out.append(b'%b"delta":%b,"sequence_number":%d}\n\n' % (start, encode(text), self.number))
        self.number += 1


class Silence(Events):
    """Nobody listens."""

    def tell(self, kind: str, **fields: Any) -> None:
        pass

    def delta(self, start: bytes, text: str) -> None:
        pass


class Output:
    """The items of one answer."""

    def __init__(self, response_id: str, events: Events, *, logprobs: bool, sealed: bool) -> None:
        """`sealed`: reasoning items carry `encrypted_content`."""
        self.items: list[Item] = []
        self.events = events
        self._suffix = response_id.partition("_")[2]
        self._logprobs = logprobs
        self._sealed = sealed
        self._open: Item | None = None
        self._texts: list[str] = []
        """The text of the open item."""
        self._shown: list[ChatLogprob] = []
        self._delta = b""

    def add(self, parts: Sequence[Part], logprobs: Sequence[ChatLogprob] = ()) -> None:
        """`logprobs`: of the tokens whose text these parts are; they are kept where the text is the message's."""
        for part in parts:
            match part:
                case Content():
                    if not isinstance(self._open, Message):
                        self._begin(Message(id=self._id("msg")))
                    self._content(part.text, logprobs if part is parts[-1] else ())
                case Reasoning():
                    if not isinstance(self._open, ReasoningItem):
                        self._begin(ReasoningItem(id=self._id("rs")))
                    self._text(part.text)
                case ToolCallStart():
                    self._begin(FunctionCall(id=self._id("fc"), call_id=part.id, name=part.name))
                case _:
                    self._text(part.text)

    def finish(self, *, cut: bool) -> None:
        """The end of the answer; `cut`: it would have gone on."""
        if not self.items and not cut:
            self._begin(Message(id=self._id("msg")))
        self._close("incomplete" if cut else "completed")

    def _id(self, kind: str) -> str:
        return f"{kind}_{self._suffix}_{len(self.items)}"

    def _begin(self, item: Item) -> None:
        self._close("completed")
        self._open = item
        self.items.append(item)
        index = len(self.items) - 1
        self.events.tell("response.output_item.added", output_index=index, item=item)
        place: dict[str, Any] = {"item_id": item.id, "output_index": index}
        match item:
            case Message():
                kind = "response.output_text.delta"
                self.events.tell("response.content_part.added", **place, content_index=0, part=OutputText())
                place |= {"content_index": 0} if self._logprobs else {"content_index": 0, "logprobs": []}
            case ReasoningItem():
                kind = "response.reasoning_text.delta"
                self.events.tell("response.content_part.added", **place, content_index=0, part=ReasoningText())
                place |= {"content_index": 0}
            case _:
                kind = "response.function_call_arguments.delta"
        fields = encode({"type": kind, **place}).removesuffix(b"}")
        self._delta = b"event: %b\ndata: %b," % (kind.encode(), fields)

    def _content(self, text: str, logprobs: Sequence[ChatLogprob]) -> None:
        if not self._logprobs:
            self._text(text)
            return
        self._texts.append(text)
        self._shown += logprobs
        self.events.delta(self._delta + b'"logprobs":%b,' % encode(logprobs), text)

    def _text(self, text: str) -> None:
        if text:
            self._texts.append(text)
            self.events.delta(self._delta, text)

    def _close(self, status: ItemStatus) -> None:
        item = self._open
        if item is None:
            return
        text, logprobs = "".join(self._texts), self._shown
        self._open, self._texts, self._shown = None, [], []
        item.status = status
        index = len(self.items) - 1
        place: dict[str, Any] = {"item_id": item.id, "output_index": index}
        tell = self.events.tell
        match item:
            case Message():
                shown = OutputText(text=text, logprobs=logprobs)
                item.content = [shown]
                tell("response.output_text.done", **place, content_index=0, text=text, logprobs=logprobs)
                tell("response.content_part.done", **place, content_index=0, part=shown)
            case ReasoningItem():
                thought = ReasoningText(text=text)
                item.content = [thought]
                item.encrypted_content = seal(text) if self._sealed else None
                tell("response.reasoning_text.done", **place, content_index=0, text=text)
                tell("response.content_part.done", **place, content_index=0, part=thought)
            case _:
                item.arguments = text
                tell("response.function_call_arguments.done", **place, name=item.name, arguments=text)
        tell("response.output_item.done", output_index=index, item=item)


def begin(events: Events, response: Response) -> None:
    events.tell("response.created", response=response)
    events.tell("response.in_progress", response=response)


def end(events: Events, response: Response) -> None:
    """The last event: what became of it."""
    kind = response.status if response.status in ("completed", "incomplete") else "failed"
    events.tell(f"response.{kind}", response=response)
