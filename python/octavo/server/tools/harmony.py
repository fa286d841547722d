"""gpt-oss's format: messages with a channel and perhaps a recipient, each `<|start|>header<|message|>body<|end|>`.

analysis is reasoning, final is content, and so is what commentary says to nobody; a message to `functions.NAME` is a
call. (https://cookbook.openai.com/articles/openai-harmony)
"""

import re

from octavo.server.markup.json_text import pass_container
from octavo.server.markup.reader import Malformed, Reader, Reading, markers
from octavo.server.markup.sink import Sink

MARKERS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>")
_HEADER_END = markers("<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>")
_BODY_END = markers("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
MAX_HEADER_CHARACTERS = 1024


def harmony(reader: Reader, sink: Sink) -> Reading[None]:
    """The prompt ended in `<|start|>assistant`: the output goes on with that header. Without one, all is content."""
    try:
        marker = yield from reader.expect("<|start|>", "<|channel|>", " to=")
    except Malformed:
        marker = yield from reader.until(_BODY_END, sink.content)
    while marker:
        if marker in ("<|start|>", "<|channel|>", " to="):
            marker = yield from _message(reader, sink, marker)
        else:
            marker = yield from reader.until(_BODY_END, sink.content)


def _message(reader: Reader, sink: Sink, begin: str) -> Reading[str]:
    """Reads a header that began so, and its body; returns the marker that ended it."""
    header = [begin]
    marker = yield from reader.until(_HEADER_END, header.append)
    if marker != "<|message|>":
        return marker
    text = "".join(header)[:MAX_HEADER_CHARACTERS]
    recipient = _RECIPIENT.search(text)
    if recipient is not None and recipient[1].startswith("functions."):
        try:
            sink.start(recipient[1].removeprefix("functions."))
        except Malformed:
            return (yield from reader.until(_BODY_END, sink.content))
        return (yield from _arguments(reader, sink))
    # Other recipients are the model's built-in tools, which it may try to use unasked.
    to_reader = recipient is None and "analysis" not in text
    return (yield from reader.until(_BODY_END, sink.content if to_reader else sink.reasoning))


def _arguments(reader: Reader, sink: Sink) -> Reading[str]:
    if (yield from reader.skip()) == "{":
        yield from pass_container(reader, sink.arguments)
        yield from reader.skip()
    else:
        sink.arguments("{}")
    return (yield from reader.until(_BODY_END, sink.content))
