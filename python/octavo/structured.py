"""What an output has to match: from each way of asking for it to the one form that the engine takes.

    response_format, structured_outputs, guided_* ─▶ StructuredOutputsParams ─▶ Structure ─▶ _core.Sampling

Here the constraint is put into the engine's terms; whether it can be enforced is found out where it is compiled, in the
engine. Every mistake is a ValueError("<field>: <reason>").
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from octavo import gbnf, json_schemas, structural_tags

Kind = Literal["json_schema", "regex", "lark"]
MAX_CHOICES = 10_000


@dataclass(frozen=True)
class Structure:
    """A grammar in the engine's terms."""

    kind: Kind
    text: str

    def to_core(self) -> tuple[str, str]:
        return self.kind, self.text


@dataclass
class StructuredOutputsParams:
    """What an output has to match: one of the first six. Raises ValueError for two of them, and for what is none."""

    json: str | Mapping[str, Any] | bool | None = None
    """A JSON schema, as an object or as text."""
    regex: str | None = None
    """Matches the whole output. \\d, \\w and \\s are those of ASCII."""
    choice: list[str] | None = None
    grammar: str | None = None
    """Lark, or EBNF as llama.cpp (GBNF) and XGrammar write it."""
    json_object: bool | None = None
    """Any JSON object."""
    structural_tag: str | Mapping[str, Any] | None = None
    """Free text with tagged parts that have a structure, as XGrammar has it."""
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    """An object has only the properties that its schema names, unless the schema says otherwise."""
    whitespace_pattern: str | None = None
    """A regular expression of what may stand between the parts of JSON."""

    def __post_init__(self) -> None:
        self.structure()

    def structure(self) -> Structure | None:
        """None when nothing is asked for. An error names the field as it is named here."""
        asked = [name for name in CONSTRAINTS if getattr(self, name) not in (None, False)]
        if self.json is False:
            asked.insert(0, "json")
        if len(asked) > 1:
            raise ValueError(f"structured_outputs: {' and '.join(asked)} contradict each other; give one")
        if not asked:
            return None
        build = getattr(self, f"_{asked[0]}")
        structure: Structure = build()
        return structure

    def _json(self) -> Structure:
        return _json_schema(
            "json",
            self.json,
            compact=self.disable_any_whitespace,
            whitespace=self.whitespace_pattern,
            closed=self.disable_additional_properties,
        )

    def _json_object(self) -> Structure:
        if self.json_object is not True:
            raise ValueError("json_object: must be true or false")
        return _json_schema(
            "json_object",
            {"type": "object"},
            compact=self.disable_any_whitespace,
            whitespace=self.whitespace_pattern,
        )

    def _regex(self) -> Structure:
        if not isinstance(self.regex, str) or not self.regex:
            raise ValueError("regex: must be a regular expression")
        return Structure("regex", without_anchors(self.regex))

    def _choice(self) -> Structure:
        choices = self.choice
        if not isinstance(choices, list | tuple) or not choices:
            raise ValueError("choice: must be a list of strings, and not empty")
        if len(choices) > MAX_CHOICES:
            raise ValueError(f"choice: at most {MAX_CHOICES} strings, not {len(choices)}")
        if not all(isinstance(choice, str) and choice for choice in choices):
            raise ValueError("choice: must be strings, none of them empty")
        return Structure("lark", "start: " + " | ".join(dict.fromkeys(json.dumps(choice) for choice in choices)))

    def _grammar(self) -> Structure:
        grammar = self.grammar
        if not isinstance(grammar, str) or not grammar.strip():
            raise ValueError("grammar: must be a grammar in Lark or EBNF")
        if not gbnf.is_gbnf(grammar):
            return Structure("lark", grammar)
        try:
            return Structure("lark", gbnf.to_lark(grammar))
        except ValueError as error:
            raise ValueError(f"grammar: {error}") from None

    def _structural_tag(self) -> Structure:
        try:
            tag = (
                json_schemas.parse(self.structural_tag) if isinstance(self.structural_tag, str) else self.structural_tag
            )
            return Structure("lark", structural_tags.to_lark(tag))
        except ValueError as error:
            raise ValueError(f"structural_tag: {error}") from None


CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


@dataclass
class GuidedDecodingParams(StructuredOutputsParams):
    """The older name. The backend that older clients choose is octavo's own, whatever they say."""

    backend: str | None = None
    backend_was_auto: bool = False
    disable_fallback: bool = False

    @classmethod
    def from_optional(
        cls,
        json: Any = None,
        regex: str | None = None,
        choice: list[str] | None = None,
        grammar: str | None = None,
        json_object: bool | None = None,
        backend: str | None = None,
        whitespace_pattern: str | None = None,
        structural_tag: str | None = None,
    ) -> Self | None:
        """None when nothing is asked for. `json` may be a Pydantic model's class."""
        schema = json.model_json_schema() if hasattr(json, "model_json_schema") else json
        params = cls(
            json=schema,
            regex=regex,
            choice=choice,
            grammar=grammar,
            json_object=json_object,
            backend=backend,
            whitespace_pattern=whitespace_pattern,
            structural_tag=structural_tag,
        )
        return None if params.structure() is None else params


def response_format(value: Mapping[str, Any]) -> StructuredOutputsParams | None:
    """What OpenAI's `response_format` asks for; None for text."""
    match value.get("type"):
        case "text":
            return None
        case "json_object":
            return StructuredOutputsParams(json_object=True)
        case "json_schema":
            described = value.get("json_schema")
            schema = described.get("schema", described.get("json_schema")) if isinstance(described, Mapping) else None
            if schema is None:
                raise ValueError("response_format: json_schema needs json_schema.schema")
            # With strict false OpenAI lets the model stray. Here a schema that was given holds.
            return StructuredOutputsParams(json=schema)
        case "structural_tag":
            return StructuredOutputsParams(structural_tag=value)
        case kind:
            shown = str(kind)[:40]
            raise ValueError(
                f"response_format: type {shown!r} is none of text, json_object, json_schema, structural_tag"
            )


def _json_schema(name: str, schema: Any, *, compact: bool, whitespace: str | None, closed: bool = False) -> Structure:
    try:
        text = json_schemas.to_text(schema, compact=compact, whitespace=whitespace, closed=closed)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return Structure("json_schema", text)


def without_anchors(regex: str) -> str:
    """The same for a match of the whole text, where `^` before and `$` behind an alternative say nothing."""
    parts, depth, in_set, begins = [], 0, False, True
    index = 0
    while index < len(regex):
        character = regex[index]
        piece = regex[index : index + 2] if character == "\\" else character
        index += len(piece)
        if in_set:
            in_set = character != "]"
        elif character == "[":
            in_set = True
            if regex[index : index + 1] == "^":
                piece, index = piece + "^", index + 1
            if regex[index : index + 1] == "]":
                piece, index = piece + "]", index + 1
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif depth == 0 and is_anchor(character, begins, regex[index : index + 1]):
            continue
        begins = depth == 0 and piece == "|"
        parts.append(piece)
    return "".join(parts)


def is_anchor(character: str, begins: bool, following: str) -> bool:
    return (character == "^" and begins) or (character == "$" and following in ("", "|"))
