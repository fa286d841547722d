"""Each way to ask for a structure gives the texts that it describes, and no others."""

import json
from pathlib import Path
from typing import Any

import pytest
from acceptance import NotCompiled, accepts

import octavo
from octavo import json_schemas
from octavo.structured import GuidedDecodingParams, StructuredOutputsParams, response_format

POINT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def check(asked: StructuredOutputsParams, yes: list[str], no: list[str]) -> None:
    structure = asked.structure()
    for text in yes:
        assert accepts(structure, text), text
    for text in no:
        assert not accepts(structure, text), text


def test_names() -> None:
    assert octavo.StructuredOutputsParams is StructuredOutputsParams
    assert octavo.GuidedDecodingParams is GuidedDecodingParams


def test_schemas() -> None:
    yes = ['{"a": 1}', '{"a":1}', '{\n  "a": 1,\n  "b": "x"\n}']
    for schema in (POINT, json.dumps(POINT)):
        check(StructuredOutputsParams(json=schema), yes, ['{"a": "x"}', "{}", '{"a"' + " " * 20 + ":1}"])
    check(StructuredOutputsParams(json=POINT, disable_any_whitespace=True), ['{"a":1}'], ['{"a": 1}'])
    check(StructuredOutputsParams(json=POINT, whitespace_pattern="_"), ['{_"a":_1}'], ['{"a": 1}'])
    check(StructuredOutputsParams(json=POINT, disable_additional_properties=True), ['{"a":1}'], ['{"a":1,"b":2}'])
    check(StructuredOutputsParams(json=True), ["[1]", "null"], ["x"])
    check(StructuredOutputsParams(json_object=True), ["{}", '{"x": [1]}'], ["[1]", "1"])


def test_nested_objects_are_closed_too() -> None:
    schema = {"$defs": {"p": POINT}, "type": "array", "items": {"$ref": "#/$defs/p"}}
    closed = json.loads(json_schemas.to_text(schema, closed=True))
    assert closed["$defs"]["p"]["additionalProperties"] is False
    assert "additionalProperties" not in schema["$defs"]["p"]  # type: ignore[index]


def test_regular_expressions_match_the_whole_output() -> None:
    check(StructuredOutputsParams(regex=r"^\d{3}-[a-z/]+$"), ["123-a/b"], ["12", "123-A", "x123-a"])
    check(StructuredOutputsParams(regex=r"^a$|^[$^]b$|\$"), ["a", "$b", "^b", "$"], ["b", "ab"])
    check(StructuredOutputsParams(regex="(a|b)\n"), ["a\n"], ["a"])


def test_choices_are_taken_as_they_stand() -> None:
    choices = ["good", 'bad "x"', "äö\n", "a|b", "good"]
    check(StructuredOutputsParams(choice=choices), choices, ["go", "a", "bad"])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"json": 5}, "json: "),
        ({"json": "{"}, "json: is not JSON"),
        ({"json": '{"items":' * 60_000 + "1" + "}" * 60_000}, "json: is nested too deeply"),
        ({"json": False}, "json: nothing matches"),
        ({"json": {"x-guidance": {"lenient": True}}}, "x-guidance"),
        ({"json": {"const": float("nan")}}, "json: "),
        ({"json": {}, "regex": "a"}, "json and regex"),
        ({"regex": ""}, "regex: "),
        ({"choice": []}, "choice: "),
        ({"choice": ["a", 1]}, "choice: "),
        ({"choice": [""]}, "choice: "),
        ({"grammar": " "}, "grammar: "),
        ({"grammar": "root ::= ("}, "grammar: "),
        ({"json_object": 1}, "json_object: "),
        ({"structural_tag": "{"}, "structural_tag: "),
    ],
)
def test_mistakes_name_their_field(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        StructuredOutputsParams(**arguments)


def test_nothing_asked_for() -> None:
    assert StructuredOutputsParams().structure() is None
    assert StructuredOutputsParams(json_object=False).structure() is None
    assert GuidedDecodingParams.from_optional(backend="xgrammar") is None


def test_the_older_name_takes_any_backend() -> None:
    params = GuidedDecodingParams(regex="a", backend="outlines:no-fallback")
    assert params.structure() == StructuredOutputsParams(regex="a").structure()
    assert GuidedDecodingParams.from_optional(choice=["a"], backend="x", whitespace_pattern=" ") is not None


def test_response_formats() -> None:
    assert response_format({"type": "text"}) is None
    schema = {"type": "json_schema", "json_schema": {"name": "point", "strict": True, "schema": POINT}}
    asked = response_format(schema)
    assert asked is not None
    check(asked, ['{"a": 1}'], ["{}"])
    for wrong in ({"type": "yaml"}, {}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "x"}}):
        with pytest.raises(ValueError, match="response_format: "):
            response_format(wrong)


def suite() -> list[Any]:
    """The JSON Schema Test Suite for draft 2020-12 (MIT licence), but for its largest schemas."""
    lines = Path(__file__).with_name("json_schema_suite.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_no_schema_of_the_suite_is_enforced_in_part() -> None:
    """What a schema forbids never gets through; of what it allows, nearly all does."""
    compiled, allowed, refused = 0, 0, []
    for group in suite():
        try:
            structure = StructuredOutputsParams(json=group["schema"]).structure()
            accepts(structure, "")
        except (NotCompiled, ValueError):
            continue
        compiled += 1
        for valid, data in group["tests"]:
            accepted = accepts(structure, json.dumps(data)) or accepts(structure, json.dumps(data, ensure_ascii=False))
            assert valid or not accepted, (group["description"], data)
            if valid:
                allowed += 1
                if not accepted:
                    refused.append((group["description"], data))
    assert compiled > 150
    assert len(refused) < allowed / 10, refused
