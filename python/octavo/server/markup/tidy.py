"""The last touch on what a parser found: no special tokens in what people read, no white space around the markup."""

from collections.abc import Iterable

from octavo.server.markup.reader import Markers
from octavo.server.parts import Content, Part, Reasoning


class _Hidden:
    """Text without some markers, however it is cut."""

    def __init__(self, wanted: Markers) -> None:
        self._wanted = wanted
        self._held = ""

    def push(self, text: str, *, final: bool = False) -> str:
        text = self._held + text
        shown: list[str] = []
        position = 0
        while found := self._wanted.find(text, position):
            shown.append(text[position : found.start()])
            position = found.end()
        certain = len(text) if final else self._wanted.certain(text, position)
        self._held = text[certain:]
        shown.append(text[position:certain])
        return "".join(shown)


class Tidy:
    """Parts of one choice, tidied as they come.

    White space at the end of reasoning or of content before a call, and at the beginning of what follows either,
    belongs to the markup: models write it there by habit. Content alone is left as it is.
    """

    def __init__(self, special_tokens: Markers | None) -> None:
        """`special_tokens`: those that are not shown."""
        self._hidden = None if special_tokens is None else _Hidden(special_tokens)
        self._kind: type[Part] | None = None
        self._at_start = False
        """White space is dropped until something else comes."""
        self._space: list[str] = []
        """White space that is dropped if markup follows."""

    def take(self, parts: Iterable[Part]) -> list[Part]:
        out: list[Part] = []
        for part in parts:
            if isinstance(part, Content | Reasoning):
                self._text(type(part), part.text, out)
            else:
                self._flush(out)
                self._begin(type(part))
                out.append(part)
        return out

    def finish(self) -> list[Part]:
        out: list[Part] = []
        self._flush(out)
        if self._kind is Content and not self._at_start and self._space:
            out.append(Content("".join(self._space)))
        return out

    def _begin(self, kind: type[Part]) -> None:
        self._at_start = self._kind is not None or kind is Reasoning
        self._kind = kind
        self._space.clear()

    def _flush(self, out: list[Part]) -> None:
        """What was held back as a possible special token, before another kind of part."""
        if self._hidden is not None and self._kind in (Content, Reasoning):
            self._show(self._hidden.push("", final=True), out)

    def _text(self, kind: type[Content] | type[Reasoning], text: str, out: list[Part]) -> None:
        if kind is not self._kind:
            self._flush(out)
            self._begin(kind)
        self._show(text if self._hidden is None else self._hidden.push(text), out)

    def _show(self, text: str, out: list[Part]) -> None:
        if self._at_start:
            text = text.lstrip()
        body = text.rstrip()
        if body:
            self._at_start = False
            kind = Reasoning if self._kind is Reasoning else Content
            out.append(kind("".join(self._space) + body))
            self._space.clear()
        if len(body) < len(text):
            self._space.append(text[len(body) :])
