"""Text that arrives in pieces, for parsers that are written as if it were all there.

A grammar is a generator over a `Reader`: where it needs more text it yields, and goes on when there is some. All its
steps are the reader's, whose results do not depend on where the text was cut. What is read is let go, except between
`mark` and `marked`; what is looked at again is never longer than a marker, so the work is linear.
"""

import re
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]
"""A step that may have to wait for text, and then returns a T."""

SPACE = " \t\n\r"


class Malformed(Exception):
    """The text is not what it began to look like."""


class Markers:
    """Strings to look for. None of them is the beginning of another."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = tuple(strings)
        self._pattern = re.compile("|".join(map(re.escape, sorted(strings, key=len, reverse=True))) or r"(?!)")
        self._prefixes = {string[:length] for string in strings for length in range(1, len(string))}
        self._longest = max(map(len, strings), default=1)

    def find(self, text: str, start: int) -> re.Match[str] | None:
        return self._pattern.search(text, start)

    def certain(self, text: str, start: int) -> int:
        """Up to where no marker can begin, whatever follows `text`."""
        prefixes = self._prefixes
        for position in range(max(start, len(text) - self._longest + 1), len(text)):
            if text[position:] in prefixes:
                return position
        return len(text)


@lru_cache(maxsize=256)
def markers(*strings: str) -> Markers:
    return Markers(strings)


class Reader:
    def __init__(self) -> None:
        self.text = ""
        self.position = 0
        self.ended = False
        """No more text will come."""
        self._incoming: list[str] = []
        self._mark: int | None = None
        self._marked: list[str] = []

    def feed(self, text: str) -> None:
        self._incoming.append(text)

    def more(self) -> Reading[bool]:
        """Waits for text; False when there is none to come. What was read before is let go."""
        if self.ended:
            return False
        if self._mark is not None:
            self._marked.append(self.text[self._mark : self.position])
            self._mark = 0
        self.text = self.text[self.position :]
        self.position = 0
        yield
        if self._incoming:
            self.text += "".join(self._incoming)
            self._incoming.clear()
        return True

    def mark(self, before: str = "") -> None:
        """From here on what is read is kept, behind `before`, which was read already."""
        self._mark = self.position
        self._marked = [before]

    def marked(self) -> str:
        """What was read since `mark`; nothing is kept any more."""
        if self._mark is None:
            return ""
        text = "".join(self._marked) + self.text[self._mark : self.position]
        self._mark = None
        self._marked = []
        return text

    def unread(self, text: str) -> None:
        """Puts back what was read last."""
        self.text = text + self.text[self.position :]
        self.position = 0

    def rest(self) -> str:
        """All that has come and is not read; it is read then."""
        rest = self.text[self.position :] + "".join(self._incoming)
        self._incoming.clear()
        self.position = len(self.text)
        return rest

    def peek(self) -> Reading[str]:
        """The next character, not yet read; "" at the end."""
        while self.position >= len(self.text):
            if not (yield from self.more()):
                return ""
        return self.text[self.position]

    def skip(self, characters: str = SPACE) -> Reading[str]:
        """Reads all of these characters that come next; returns the one behind them, not yet read."""
        while True:
            following = yield from self.peek()
            if not following or following not in characters:
                return following
            self.position += 1

    def expect(self, *strings: str) -> Reading[str]:
        """Reads the longest of these that comes. Malformed, and nothing read, when something else comes."""
        strings = tuple(sorted(strings, key=len, reverse=True))
        while True:
            rest = self.text[self.position : self.position + len(strings[0])]
            for string in strings:
                if rest.startswith(string):
                    self.position += len(string)
                    return string
                if string.startswith(rest) and not self.ended:
                    break
            else:
                raise Malformed
            yield from self.more()

    def until(self, wanted: Markers, keep: Callable[[str], None]) -> Reading[str]:
        """Reads up to and with a marker; gives `keep` what is before it. Returns the marker, "" at the end."""
        while True:
            if found := wanted.find(self.text, self.position):
                if found.start() > self.position:
                    keep(self.text[self.position : found.start()])
                self.position = found.end()
                return found[0]
            certain = len(self.text) if self.ended else wanted.certain(self.text, self.position)
            if certain > self.position:
                keep(self.text[self.position : certain])
                self.position = certain
            if not (yield from self.more()):
                return ""

    def word(self, end: str, *, limit: int, without: str = "\n") -> Reading[str]:
        """Reads up to and with `end`; returns what is before it.

        Malformed when a character of `without` comes first (which is not read), none comes, or it is above `limit`.
        """
        pieces: list[str] = []
        marker = yield from self.until(markers(end, *without), pieces.append)
        if marker != end:
            self.position -= len(marker)
            raise Malformed
        word = "".join(pieces)
        if len(word) > limit:
            raise Malformed
        return word

    def matching(self, pattern: re.Pattern[str], keep: Callable[[str], None]) -> Reading[str]:
        """Reads all characters that `pattern` (a class, repeated) matches; returns the one behind them, not read."""
        while True:
            if (yield from self.peek()) == "":
                return ""
            found = pattern.match(self.text, self.position)
            if found is not None and found.end() > self.position:
                keep(found[0])
                self.position = found.end()
            if self.position < len(self.text):
                return self.text[self.position]
