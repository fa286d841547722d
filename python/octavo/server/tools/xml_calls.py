"""Calls whose arguments are elements: `<function=f><parameter=a>text</parameter></function>` and its relatives.

An argument is text; what it means in JSON says the schema of the function's parameters (schema_types). Text for a
string is passed on as it comes, anything else when it is complete.
"""

import json
from dataclasses import dataclass
from functools import partial

from octavo.server.markup.json_text import whole_characters
from octavo.server.markup.reader import SPACE, Malformed, Reader, Reading, markers
from octavo.server.markup.sink import MAX_NAME_CHARACTERS, Grammar, Sink
from octavo.server.tools.marked import Format
from octavo.server.tools.schema_types import ParameterTypes, value_of_text


@dataclass(frozen=True)
class Tags:
    """How a dialect writes its elements. A name ends with `name_end`, its tag with `>`."""

    frame: tuple[str, str]
    """What stands around one call, or several."""
    function: tuple[str, str] = ("<function=", "</function>")
    parameter: tuple[str, str] = ("<parameter=", "</parameter>")
    name_end: str = ">"


QWEN3 = Tags(("<tool_call>", "</tool_call>"))
SEED = Tags(("<seed:tool_call>", "</seed:tool_call>"))
MINIMAX_M2 = Tags(
    ("<minimax:tool_call>", "</minimax:tool_call>"),
    ('<invoke name="', "</invoke>"),
    ('<parameter name="', "</parameter>"),
    '"',
)
DEEPSEEK_V32 = Tags(
    ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
    ('<｜DSML｜invoke name="', "</｜DSML｜invoke>"),
    ('<｜DSML｜parameter name="', "</｜DSML｜parameter>"),
    '"',
)


def xml_grammar(tags: Tags, types: ParameterTypes) -> Grammar:
    """Models sometimes leave out the frame's beginning, so a function alone begins a call too."""
    return Format(
        opens=(tags.function[0],),
        closes=(tags.function[1],),
        frame=tags.frame,
        body=partial(read_element_call, tags, types),
        between=SPACE,
    ).grammar


def read_element_call(tags: Tags, types: ParameterTypes, reader: Reader, sink: Sink) -> Reading[None]:
    """Reads a call behind the beginning of its function's tag. Malformed as json_text.read_call."""
    name = (yield from _tag_name(tags, reader)).strip()
    sink.start(name)
    arguments = Arguments(sink, reader)
    try:
        while (yield from reader.skip()):
            if (yield from reader.expect(tags.parameter[0], tags.function[1])) == tags.function[1]:
                break
            key = (yield from _tag_name(tags, reader)).strip()
            if (yield from reader.peek()) == "\n":
                reader.position += 1
            yield from arguments.read(key, types.of(name, key), _ends(tags))
    finally:
        arguments.close()


def _tag_name(tags: Tags, reader: Reader) -> Reading[str]:
    name = yield from reader.word(tags.name_end, limit=MAX_NAME_CHARACTERS)
    if tags.name_end != ">":
        yield from reader.word(">", limit=MAX_NAME_CHARACTERS)
    return name


def _ends(tags: Tags) -> tuple[str, ...]:
    """What ends a parameter. Models forget its closing tag; then the next tag on a line of its own ends it."""
    own = tags.parameter[1]
    return (own, "\n" + own, "\n" + tags.parameter[0], "\n" + tags.function[1])


class Arguments:
    """Writes one JSON object, argument by argument."""

    def __init__(self, sink: Sink, reader: Reader) -> None:
        self._sink = sink
        self._reader = reader
        self._open = False
        """Within a string."""
        self._written = 0
        reader.marked()

    def read(self, key: str, types: frozenset[str], ends: tuple[str, ...]) -> Reading[None]:
        """Reads a value up to one of `ends`; only the first of them is read too, with or without a line break."""
        sink, wanted = self._sink, markers(*ends)
        head = f"{', ' if self._written else '{'}{json.dumps(whole_characters(key), ensure_ascii=False)}: "
        self._written += 1
        if types == {"string"}:
            sink.arguments(head + '"')
            self._open = True
            marker = yield from self._reader.until(wanted, lambda text: sink.arguments(_escaped(text)))
            if not marker:
                return
            sink.arguments('"')
            self._open = False
        else:
            pieces: list[str] = []
            marker = yield from self._reader.until(wanted, pieces.append)
            sink.arguments(head + value_of_text("".join(pieces), types))
        if marker.lstrip("\n") != ends[0]:
            self._reader.position -= len(marker)
        self._reader.mark()

    def close(self) -> None:
        """Ends the object, unless the output was cut off within a string."""
        if not self._open:
            self._sink.arguments("}" if self._written else "{}")
            self._open = True


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def glm_grammar(types: ParameterTypes) -> Grammar:
    return Format(
        opens=("<tool_call>",), closes=("</tool_call>",), body=partial(read_glm_call, types), between=SPACE
    ).grammar


def read_glm_call(types: ParameterTypes, reader: Reader, sink: Sink) -> Reading[None]:
    """GLM: the name, then `<arg_key>…</arg_key><arg_value>…</arg_value>` for each argument."""
    name: list[str] = []
    yield from reader.skip()
    marker = yield from reader.until(markers("\n", "<arg_key>", "</tool_call>"), name.append)
    function = "".join(name).strip()
    if not marker:
        raise Malformed
    if marker != "\n":
        reader.position -= len(marker)
    sink.start(function)
    arguments = Arguments(sink, reader)
    try:
        while (yield from reader.skip()):
            if (yield from reader.expect("<arg_key>", "</tool_call>")) == "</tool_call>":
                break
            key = (yield from reader.word("</arg_key>", limit=MAX_NAME_CHARACTERS)).strip()
            yield from reader.skip()
            yield from reader.expect("<arg_value>")
            yield from arguments.read(key, types.of(function, key), ("</arg_value>",))
    finally:
        arguments.close()
