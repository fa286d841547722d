"""An answer in the making: parts become content blocks, and events tell of each change.

    message_start, ping
      content_block_start → content_block_delta … → content_block_stop     each block
    message_delta (why it ended, usage), message_stop

Whole answers go through the same code, with nobody listening: so they are what a stream adds up to.
"""

from typing import Any

import msgspec

from octavo.server.anthropic.protocol import Block, MessagesAnswer, TextBlock, ThinkingBlock, ToolUseBlock
from octavo.server.chunks import encode
from octavo.server.parts import Content, Part, Reasoning, ToolCallStart

DELTAS = {
    TextBlock: (b"text_delta", b"text"),
    ThinkingBlock: (b"thinking_delta", b"thinking"),
    ToolUseBlock: (b"input_json_delta", b"partial_json"),
}
"""Kind of block → its delta's type, and the field with the text."""


class Output:
    """The blocks of one answer. `out` has the events where the answer is streamed; who sends them empties it."""

    def __init__(self, signature: str, *, streamed: bool) -> None:
        """`signature`: of thinking blocks. Clients send it back with the block; octavo takes the block as it comes."""
        self.blocks: list[Block] = []
        self.out: list[bytes] = []
        self._signature = signature
        self._streamed = streamed
        self._open: Block | None = None
        self._texts: list[str] = []
        """The text of the open block."""
        self._delta = b""

    def begin(self, message: MessagesAnswer) -> None:
        self._tell("message_start", message=message)
        self._tell("ping")

    def add(self, part: Part) -> None:
        match part:
            case Content():
                if not isinstance(self._open, TextBlock):
                    self._begin(TextBlock())
            case Reasoning():
                if not isinstance(self._open, ThinkingBlock):
                    self._begin(ThinkingBlock())
            case ToolCallStart():
                self._begin(ToolUseBlock(part.id, part.name))
                return
        self._texts.append(part.text)
        if self._streamed and part.text:
            self.out.append(b"%b%b}}\n\n" % (self._delta, encode(part.text)))

    def close(self) -> None:
        """Completes the open block."""
        block, text = self._open, "".join(self._texts)
        self._open, self._texts = None, []
        index = len(self.blocks) - 1
        match block:
            case None:
                return
            case TextBlock():
                block.text = text
            case ThinkingBlock():
                block.thinking, block.signature = text, self._signature
                signed = {"type": "signature_delta", "signature": self._signature}
                self._tell("content_block_delta", index=index, delta=signed)
            case ToolUseBlock():
                block.input = as_object(text)
        self._tell("content_block_stop", index=index)

    def end(self, message: MessagesAnswer) -> None:
        delta = {"stop_reason": message.stop_reason, "stop_sequence": message.stop_sequence}
        self._tell("message_delta", delta=delta, usage=message.usage)
        self._tell("message_stop")

    def _begin(self, block: Block) -> None:
        self.close()
        self._open = block
        index = len(self.blocks)
        self.blocks.append(block)
        self._tell("content_block_start", index=index, content_block=block)
        self._delta = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (index, *DELTAS[type(block)])
        )

    def _tell(self, kind: str, **fields: Any) -> None:
        if self._streamed:
            self.out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **fields})))


def as_object(text: str) -> dict[str, Any]:
    """A call's arguments. What was cut off, or is no object, is kept as text under one name."""
    try:
        value = msgspec.json.decode(text or "{}")
    except msgspec.MsgspecError:
        value = None
    return value if isinstance(value, dict) else {"arguments": text}
