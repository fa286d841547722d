"""The JSON types of a function's parameters, and what a text means as a value of them."""

import json
import re
from collections.abc import Mapping
from typing import Any

from octavo.server.markup.reader import Malformed, Reader
from octavo.server.tools.python_value import python_value

STRING = frozenset({"string"})
_INTEGER = re.compile(r"-?(?:0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_ALTERNATIVES = ("anyOf", "oneOf", "allOf")


class ParameterTypes:
    """`schemas`: function → the JSON schema of its parameters."""

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        self._schemas = schemas
        self._known: dict[tuple[str, str], frozenset[str]] = {}

    def of(self, function: str, parameter: str) -> frozenset[str]:
        """The types that the schema allows; a parameter of which it says nothing is a string."""
        types = self._known.get((function, parameter))
        if types is None:
            schema = self._schemas.get(function, {})
            properties = schema.get("properties")
            found = types_of(properties.get(parameter), schema) if isinstance(properties, Mapping) else frozenset()
            types = self._known[function, parameter] = found or STRING
        return types


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 8) -> frozenset[str]:
    """Every type that `schema` allows, as far as it says so plainly. `root` is where its references point."""
    if not isinstance(schema, Mapping) or depth == 0:
        return frozenset()
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    if isinstance(kind, list):
        return frozenset(one for one in kind if isinstance(one, str))
    if isinstance(reference := schema.get("$ref"), str):
        return types_of(referenced(reference, root), root, depth - 1)
    for values in (schema.get("enum"), [schema["const"]] if "const" in schema else None):
        if isinstance(values, list):
            return frozenset(map(json_type, values))
    options = [option for name in _ALTERNATIVES if isinstance(schema.get(name), list) for option in schema[name]]
    return frozenset().union(*(types_of(option, root, depth - 1) for option in options[:64]))


def referenced(reference: str, root: Mapping[str, Any]) -> Any:
    """What a local reference (`#/$defs/X`) points to; None when it points nowhere."""
    place: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        place = place.get(name) if isinstance(place, Mapping) else None
    return place


def json_type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case list():
            return "array"
        case dict():
            return "object"
    return "string"


def value_of_text(text: str, types: frozenset[str]) -> str:
    """`text` as JSON of one of `types`; a string when it is none of them."""
    word = text.strip()
    if "null" in types and word in ("null", "None"):
        return "null"
    if "string" not in types:
        if types & {"integer", "number"} and (_INTEGER if "number" not in types else _NUMBER).fullmatch(word):
            return word
        if "boolean" in types and word.lower() in ("true", "false"):
            return word.lower()
        is_container = ("object" in types and word.startswith("{")) or ("array" in types and word.startswith("["))
        if is_container and (value := _container(word)) is not None:
            return value
    return json.dumps(text, ensure_ascii=False)


def _container(text: str) -> str | None:
    """An object or array in JSON, or as Python writes it."""
    try:
        json.loads(text)
        return text
    except (ValueError, RecursionError):
        pass
    reader = Reader()
    reader.text, reader.ended = text, True
    reading = python_value(reader)
    try:
        next(reading)
    except StopIteration as done:
        return str(done.value) if reader.position == len(text) else None
    except Malformed:
        pass
    return None
