"""JSON schemas as the engine's compiler takes them.

What a schema means, and which keywords can be enforced, is the compiler's part; here are the options that stand beside
it, and the whitespace that JSON may have.
"""

import json
from collections.abc import Mapping
from typing import Any

WHITESPACE = r"[ \t]{1,16}|\r?\n[ \t]{0,64}"
"""A few spaces, or a line's end and the next line's indent. Without a bound, small models go on with it for ever."""


def to_text(schema: Any, *, compact: bool = False, whitespace: str | None = None, closed: bool = False) -> str:
    """A schema, given as an object or as text, with the compiler's options.

    `compact`: no whitespace. `whitespace`: a regular expression of it. `closed`: objects with named properties take no
    others, unless their schema says so. Raises ValueError for what is no schema.
    """
    if isinstance(schema, str):
        schema = parse(schema)
    if schema is True:
        schema = {}
    if schema is False:
        raise ValueError("nothing matches the schema false")
    if not isinstance(schema, Mapping):
        raise ValueError("a JSON schema is an object, or text with one")
    if "x-guidance" in schema:
        raise ValueError("x-guidance is not a keyword of JSON Schema")
    if whitespace is not None and not isinstance(whitespace, str):
        raise ValueError("whitespace_pattern must be a regular expression")
    if closed:
        schema = _close(schema)
    options: dict[str, Any] = {"whitespace_pattern": WHITESPACE if whitespace is None else whitespace}
    if compact:
        options = {"whitespace_flexible": False}
    return write({**schema, "x-guidance": options})


def parse(text: str) -> Any:
    """Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None


def write(value: Any) -> str:
    """Raises ValueError."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"is not JSON: {error}") from None


def _close(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    copied: dict[str, Any] = parse(write(schema))
    waiting: list[Any] = [copied]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("properties"), dict) or isinstance(value.get("patternProperties"), dict):
                value.setdefault("additionalProperties", False)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return copied
