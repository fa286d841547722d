"""The reasoning of an output, and behind it whatever another parser reads."""

from octavo.server.markup.reader import Malformed, Reader, Reading, markers
from octavo.server.markup.sink import Sink
from octavo.server.parts import OutputParser, Part
from octavo.server.reasoning.styles import ReasoningStyle


class Thinking:
    """Reasoning up to its end marker; all that follows is `inner`'s (parts.OutputParser)."""

    def __init__(self, style: ReasoningStyle, inner: OutputParser, *, opened: bool | None) -> None:
        """`opened`: see ReasoningStyle.opened_by."""
        self._inner = inner
        self._sink = Sink()
        self._reader = Reader()
        self.entered = opened is True
        """Whether there is reasoning at all, as far as is known."""
        self._run = self._read(style, opened)
        self.thinking = next(self._run, True) is None
        """Whether reasoning goes on, or may still begin."""

    def push(self, text: str) -> list[Part]:
        if not self.thinking:
            return self._inner.push(text)
        if not text:
            return []
        self._reader.feed(text)
        return self._go_on()

    def _go_on(self) -> list[Part]:
        self.thinking = next(self._run, True) is None
        parts = self._sink.take()
        if not self.thinking and (rest := self._reader.rest()):
            parts += self._inner.push(rest)
        return parts

    def finish(self) -> list[Part]:
        parts: list[Part] = []
        if self.thinking:
            self._reader.ended = True
            parts = self._go_on()
        return parts + self._inner.finish()

    def _read(self, style: ReasoningStyle, opened: bool | None) -> Reading[None]:
        """Reads the reasoning and its markers, and nothing behind them."""
        if opened is False:
            return
        reader = self._reader
        reader.mark()
        yield from reader.skip()
        try:
            yield from reader.expect(*style.starts)
        except Malformed:
            if opened is None:
                reader.unread(reader.marked())
                return
        reader.marked()
        self.entered = True
        yield from reader.until(markers(*style.ends), self._sink.reasoning)
