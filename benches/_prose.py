"""The prose that `perplexity.py` reads: the paragraphs of Debian's package debian-handbook, or any text file.

The book is "The Debian Administrator's Handbook" by Raphaël Hertzog and Roland Mas, GPL-2.0+ or CC-BY-SA-3.0; nothing
of it is in this repository. `make bench-perplexity` downloads the package.
"""

import io
import tarfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

PAGES = "./usr/share/doc/debian-handbook/html/en-US/"
SKIPPED = {"pre", "script"}


def read_prose(file: Path) -> str:
    """The text of `file`; the English paragraphs of the book where it is that Debian package."""
    if file.suffix != ".deb":
        return file.read_text()
    texts = []
    with tarfile.open(fileobj=io.BytesIO(_member(file.read_bytes(), "data.tar.xz"))) as archive:
        pages = {member.name: member for member in archive if member.name.startswith(PAGES)}
        for name in sorted(name for name in pages if name.endswith(".html")):
            page = archive.extractfile(pages[name])
            if page is not None:
                texts.append("\n\n".join(_Paragraphs.of(page.read().decode())))
    if not texts:
        raise ValueError(f"{file} has no pages below {PAGES}: it is not the package debian-handbook")
    return "\n\n".join(filter(None, texts))


def _member(archive: bytes, name: str) -> bytes:
    """A file of an `ar` archive: after 8 bytes each member has a header of 60, and starts at an even offset."""
    position = 8
    while position + 60 <= len(archive):
        header = archive[position : position + 60]
        size = int(header[48:58])
        position += 60
        if header[:16].decode().strip(" /") == name:
            return archive[position : position + size]
        position += size + size % 2
    raise ValueError(f"no {name} in the package")


class _Paragraphs(HTMLParser):
    """The text of every <div class="para">, white space joined; listings inside a paragraph are left out."""

    def __init__(self) -> None:
        super().__init__()
        self._found: list[str] = []
        self._pieces: list[str] = []
        self._open: list[tuple[str, str]] = []

    @classmethod
    def of(cls, page: str) -> Iterator[str]:
        parser = cls()
        parser.feed(page)
        parser.close()
        return (text for text in parser._found if len(text.split()) >= 5)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open.append((tag, dict(attributes).get("class") or ""))
        if self._open[-1] == ("div", "para"):
            self._end_paragraph()

    def handle_endtag(self, tag: str) -> None:
        while self._open:
            closed = self._open.pop()
            if closed == ("div", "para"):
                self._end_paragraph()
            if closed[0] == tag:
                return

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        if ("div", "para") in self._open and not any(tag in SKIPPED for tag, _ in self._open):
            self._pieces.append(data)

    def _end_paragraph(self) -> None:
        text = " ".join("".join(self._pieces).split())
        self._pieces = []
        if text:
            self._found.append(text)
