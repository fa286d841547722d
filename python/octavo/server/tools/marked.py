"""Formats with calls between markers, and formats whose calls begin a line. What is in a call is a `Body`'s matter."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from octavo.server.markup.json_text import pass_arguments, read_call, read_calls
from octavo.server.markup.reader import SPACE, Malformed, Reader, Reading, markers
from octavo.server.markup.sink import MAX_NAME_CHARACTERS, Grammar, Sink

_WHITE = re.compile(r"\s+")
_LETTERS = re.compile(r"[a-z]+")

Body = Callable[[Reader, Sink], Reading[None]]
"""Reads one call, or several in a row. Malformed: see json_text.read_call."""


@dataclass(frozen=True)
class Format:
    """Where calls stand in a model's output."""

    opens: tuple[str, ...]
    """What begins a call, or several."""
    closes: tuple[str, ...] = ()
    frame: tuple[str, str] | tuple[()] = ()
    """What stands around all calls, and says nothing."""
    body: Body = read_calls
    line_starts: str = ""
    """Characters that begin a call where they begin a line."""
    between: str = SPACE + "}],;"
    """What may follow a call, and says nothing: models close more brackets than they open."""

    @property
    def markers(self) -> tuple[str, ...]:
        return (*self.opens, *self.closes, *self.frame)

    @property
    def grammar(self) -> Grammar:
        return partial(read_output, self)


def read_output(format: Format, reader: Reader, sink: Sink) -> Reading[None]:
    """Content and calls, to the end. Markers without a call between them are content."""
    wanted = markers(*format.markers, *(["\n"] if format.line_starts else []))
    marker = "\n"
    in_call = in_frame = False
    while marker:
        if marker == "\n":
            in_call = format.line_starts != "" and (yield from _read_line_start(format, reader, sink))
        elif marker in format.opens:
            in_call = yield from read_block(format, reader, sink, marker)
        elif marker in format.frame[:1]:
            in_frame = in_call = yield from _read_frame(format, reader, sink, marker)
        elif in_call or in_frame:
            in_call, in_frame = False, in_frame and marker not in format.frame
        else:
            sink.content(marker)
        marker = yield from reader.until(wanted, sink.content)
        if marker == "\n":
            sink.content(marker)


def _read_frame(format: Format, reader: Reader, sink: Sink, marker: str) -> Reading[bool]:
    """What follows the frame's beginning; whether it is a call."""
    reader.mark(marker)
    yield from reader.skip()
    try:
        yield from reader.expect(*format.opens)
    except Malformed:
        sink.content(reader.marked())
        return False
    return (yield from read_block(format, reader, sink, reader.marked()))


def _read_line_start(format: Format, reader: Reader, sink: Sink) -> Reading[bool]:
    """Content but for white space, where a line begins; whether a call was read."""
    if (yield from reader.matching(_WHITE, sink.content)) not in tuple(format.line_starts):
        return False
    try:
        marker = yield from reader.expect(*format.opens)
    except Malformed:
        marker = ""
    return (yield from read_block(format, reader, sink, marker))


def read_block(format: Format, reader: Reader, sink: Sink, marker: str) -> Reading[bool]:
    """The calls behind `marker`; what is none becomes content. Whether there was one."""
    before = sink.num_calls
    while True:
        made = sink.num_calls
        reader.mark(marker)
        try:
            yield from format.body(reader, sink)
        except Malformed:
            sink.content(reader.marked())
            break
        reader.marked()
        marker = ""
        if (yield from reader.skip(format.between)) != "{" or sink.num_calls == made:
            break
    if sink.num_calls == before:
        return False
    yield from reader.skip(format.between)
    return True


def plugin_call(reader: Reader, sink: Sink) -> Reading[None]:
    """InternLM: `<|plugin|>{…}`."""
    yield from reader.skip()
    yield from reader.expect("<|plugin|>")
    yield from read_call(reader, sink)


def bracketed_calls(reader: Reader, sink: Sink) -> Reading[None]:
    """An array of calls, and nothing else."""
    if (yield from reader.skip()) != "[":
        raise Malformed
    yield from read_calls(reader, sink)


def fenced_calls(reader: Reader, sink: Sink) -> Reading[None]:
    """Calls behind a fence's language, if there is one."""
    yield from reader.matching(_LETTERS, lambda _: None)
    yield from read_calls(reader, sink, needs_arguments=True)


def deepseek_call(reader: Reader, sink: Sink) -> Reading[None]:
    """V3: type, `<｜tool▁sep｜>`, name, a fence with the arguments. V3.1: name, `<｜tool▁sep｜>`, the arguments."""
    name = yield from reader.word("<｜tool▁sep｜>", limit=MAX_NAME_CHARACTERS)
    fenced = name.strip() == "function"
    if fenced:
        name = yield from reader.word("\n", limit=MAX_NAME_CHARACTERS, without="")
        yield from reader.skip()
        yield from reader.expect("```json", "```")
    sink.start(name.strip())
    reader.marked()
    yield from pass_arguments(reader, sink.arguments)
    reader.mark()
    if fenced and (yield from reader.skip()):
        yield from reader.expect("```")


def kimi_call(reader: Reader, sink: Sink) -> Reading[None]:
    """Kimi K2: `functions.NAME:NUMBER`, `<|tool_call_argument_begin|>`, the arguments."""
    word = yield from reader.word("<|tool_call_argument_begin|>", limit=MAX_NAME_CHARACTERS)
    sink.start(word.strip().rpartition(":")[0].removeprefix("functions."))
    reader.marked()
    yield from pass_arguments(reader, sink.arguments)
    reader.mark()


def mistral_call(reader: Reader, sink: Sink) -> Reading[None]:
    """An array of calls; since version 11 of its tokenizer NAME[ARGS]{…}, since 13 NAME[CALL_ID]ID[ARGS]{…}."""
    if (yield from reader.skip()) in ("[", "{"):
        yield from read_calls(reader, sink)
        return
    name: list[str] = []
    marker = yield from reader.until(markers("[ARGS]", "[CALL_ID]", "{", "\n"), name.append)
    if marker == "[CALL_ID]":
        yield from reader.word("[ARGS]", limit=MAX_NAME_CHARACTERS)
    elif marker != "[ARGS]":
        reader.position -= len(marker)
        if marker != "{":
            raise Malformed
    sink.start("".join(name).strip())
    reader.marked()
    yield from pass_arguments(reader, sink.arguments)
    reader.mark()


HERMES = Format(opens=("<tool_call>",), closes=("</tool_call>",))
LONGCAT = Format(opens=("<longcat_tool_call>",), closes=("</longcat_tool_call>",))
JAMBA = Format(opens=("<tool_calls>",), closes=("</tool_calls>",))
GRANITE = Format(opens=("<|tool_call|>", "<tool_call>"), closes=("</tool_call>",))
GRANITE_20B = Format(opens=("<function_call>",))
PHI4_MINI = Format(
    opens=("functools", "<|tool_call|>"), closes=("<|/tool_call|>", "<|tool_call_end|>"), body=bracketed_calls
)
INTERNLM = Format(opens=("<|action_start|>",), closes=("<|action_end|>",), body=plugin_call)
LLAMA3 = Format(
    opens=("<|python_tag|>",),
    closes=("<|eom_id|>",),
    body=partial(read_calls, needs_arguments=True),
    line_starts="{",
)
XLAM = Format(
    opens=("```", "<tool_call>", "[TOOL_CALLS]"),
    closes=("</tool_call>",),
    body=fenced_calls,
    line_starts="[{",
    between=SPACE + "}],;`",
)
MISTRAL = Format(opens=("[TOOL_CALLS]",), body=mistral_call)
DEEPSEEK_V3 = Format(
    opens=("<｜tool▁call▁begin｜>",),
    closes=("<｜tool▁call▁end｜>",),
    frame=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    body=deepseek_call,
)
KIMI_K2 = Format(
    opens=("<|tool_call_begin|>",),
    closes=("<|tool_call_end|>",),
    frame=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    body=kimi_call,
)
