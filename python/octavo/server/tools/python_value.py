"""A Python literal as JSON, read without ever being evaluated: strings, numbers, True, False, None, lists, dicts.

Models that were trained on Python calls also write JSON's true, false and null, and tuples, which become arrays.
"""

import json
import re

from octavo.server.markup.json_text import whole_characters
from octavo.server.markup.reader import Malformed, Reader, Reading

MAX_DEPTH = 64
_CLOSERS = {"[": "]", "{": "}", "(": ")"}
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_WORD_RUN = re.compile(r"[\w.+-]+")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_PYTHON_FLOAT = re.compile(r"[+-]?(?:\d{1,300}\.\d{0,300}|\.\d{1,300})(?:[eE][+-]?\d{1,4})?", re.ASCII)
_STRING_RUNS = {quote: re.compile(rf"[^{quote}\\]+") for quote in "'\""}
_HEX = "0123456789abcdefABCDEF"
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}


def python_value(reader: Reader) -> Reading[str]:
    """Reads one literal; returns it as JSON. Malformed for anything else."""
    pieces: list[str] = []
    due: list[str] = []
    """The closing brackets that are to come."""
    while True:
        following = yield from reader.skip()
        if due and following == due[-1]:
            _close(reader, due, pieces)
        else:
            if due and due[-1] == "}":
                pieces += ((yield from _key(reader)), ": ")
                following = yield from reader.skip()
            if following in _CLOSERS:
                if len(due) == MAX_DEPTH:
                    raise Malformed
                reader.position += 1
                due.append(_CLOSERS[following])
                pieces.append("{" if following == "{" else "[")
                continue
            pieces.append((yield from _scalar(reader)))
        while due and (yield from reader.skip()) == due[-1]:
            _close(reader, due, pieces)
        if not due:
            return "".join(pieces)
        yield from reader.expect(",")
        pieces.append(", ")


def _close(reader: Reader, due: list[str], pieces: list[str]) -> None:
    reader.position += 1
    if pieces[-1] == ", ":  # Python allows a comma there
        pieces.pop()
    pieces.append("}" if due.pop() == "}" else "]")


def _key(reader: Reader) -> Reading[str]:
    """A dict's key, as a JSON string, and the colon behind it."""
    key = yield from _scalar(reader)
    yield from reader.skip()
    yield from reader.expect(":")
    return key if key.startswith('"') else json.dumps(key)


def _scalar(reader: Reader) -> Reading[str]:
    quote = yield from reader.peek()
    if quote in ("'", '"'):
        return json.dumps((yield from _string(reader, quote)), ensure_ascii=False)
    pieces: list[str] = []
    yield from reader.matching(_WORD_RUN, pieces.append)
    word = "".join(pieces)
    if word in _WORDS:
        return _WORDS[word]
    if _JSON_NUMBER.fullmatch(word):
        return word
    if _PYTHON_FLOAT.fullmatch(word):
        return json.dumps(float(word), allow_nan=False) if abs(float(word)) != float("inf") else word
    raise Malformed


def _string(reader: Reader, quote: str) -> Reading[str]:
    """The text of a string in one quote or three."""
    num_quotes = 0
    while num_quotes < 3 and (yield from reader.peek()) == quote:
        reader.position += 1
        num_quotes += 1
    if num_quotes == 2:
        return ""
    pieces: list[str] = []
    closing = 0
    while closing < num_quotes:
        before = len(pieces)
        following = yield from reader.matching(_STRING_RUNS[quote], pieces.append)
        if not following:
            raise Malformed
        if closing and (len(pieces) > before or following != quote):
            pieces.insert(before, quote * closing)
            closing = 0
        reader.position += 1
        if following == quote:
            closing += 1
        else:
            pieces.append((yield from _escape(reader)))
    return whole_characters("".join(pieces))


def _escape(reader: Reader) -> Reading[str]:
    """What stands behind a backslash. An unknown escape is its own text, as in Python."""
    kind = yield from reader.peek()
    if not kind:
        raise Malformed
    reader.position += 1
    if kind in _HEX_DIGITS:
        digits = ""
        while len(digits) < _HEX_DIGITS[kind] and (yield from reader.peek()) in tuple(_HEX):
            digits += reader.text[reader.position]
            reader.position += 1
        complete = len(digits) == _HEX_DIGITS[kind] and int(digits, 16) <= 0x10FFFF
        return chr(int(digits, 16)) if complete else "\\" + kind + digits
    if kind in _ESCAPES:
        return _ESCAPES[kind]
    return kind if kind in "'\"\\" else "\\" + kind
