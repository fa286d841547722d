"""Free text with tagged parts, in the older form and in the newer one."""

from typing import Any

import pytest
from acceptance import accepts

from octavo.structured import StructuredOutputsParams

ARGUMENTS = {
    "type": "object",
    "properties": {"x": {"type": "integer"}},
    "required": ["x"],
    "additionalProperties": False,
}


def check(tag: dict[str, Any], yes: list[str], no: list[str]) -> None:
    structure = StructuredOutputsParams(structural_tag=tag).structure()
    for text in yes:
        assert accepts(structure, text), text
    for text in no:
        assert not accepts(structure, text), text


def test_the_older_form() -> None:
    tag = {
        "type": "structural_tag",
        "structures": [
            {"begin": "<function=foo>", "schema": ARGUMENTS, "end": "</function>"},
            {"begin": "<function=bar>", "schema": {"type": "object"}, "end": "</function>"},
        ],
        "triggers": ["<function="],
    }
    call = '<function=foo>{"x": 3}</function>'
    check(
        tag,
        ["", "hello <b> world", f"hi {call} bye", f"{call}{call}<function=bar>{{}}</function>"],
        ["<function=none>", 'hi <function=foo>{"y": 3}</function>', "<function=foo>{}", "text <function="],
    )


def formatted(format: dict[str, Any]) -> dict[str, Any]:
    return {"type": "structural_tag", "format": format}


def element(begin: str, content: dict[str, Any], end: str) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def test_parts_one_after_the_other() -> None:
    choices = [
        {"type": "const_string", "value": "A"},
        {"type": "regex", "pattern": "[0-9]/x"},
        {"type": "json_schema", "json_schema": {"type": "boolean"}},
    ]
    thought = element("<think>", {"type": "any_text"}, "</think>")
    format = {"type": "sequence", "elements": [thought, {"type": "or", "elements": choices}]}
    check(
        formatted(format),
        ["<think>a</b></think>A", "<think></think>3/x", "<think>\n</think>true"],
        ["A", "<think>a</think>", "<think>a</think>4x", "<think>a</think>Ab"],
    )


def test_tags_with_a_separator() -> None:
    tag = element("<a>", {"type": "json_schema", "json_schema": {"type": "integer"}}, "</a>")
    format = {"type": "tags_with_separator", "separator": ",", "tags": [tag]}
    check(formatted(format), ["", "<a>1</a>", "<a>1</a>,<a>22</a>"], ["<a>1</a>,", "<a>x</a>"])
    check(formatted({**format, "at_least_one": True}), ["<a>1</a>"], [""])
    check(formatted({**format, "stop_after_first": True}), ["", "<a>1</a>"], ["<a>1</a>,<a>2</a>"])


def test_tags_with_a_trigger() -> None:
    format = {"type": "triggered_tags", "triggers": ["<a"], "tags": [element("<a>", {"type": "any_text"}, "</a>")]}
    check(formatted(format), ["x", "x<a>1</a>y"], ["x<ab", "x<a>1"])
    once = {**format, "at_least_one": True, "stop_after_first": True}
    check(formatted(once), ["x<a>1</a>"], ["x", "x<a>1</a>y"])


@pytest.mark.parametrize(
    ("tag", "match"),
    [
        ({"type": "other"}, "structural_tag: "),
        ({"structures": []}, "structures"),
        ({"structures": [{"begin": "<a>"}], "triggers": ["<b"]}, "no trigger"),
        ({"structures": [{"begin": "<a>"}], "triggers": ["<a", "<b"]}, "no tag"),
        ({"structures": [{"begin": 5}], "triggers": ["<a"]}, "begin"),
        (formatted({"type": "qwen_xml_parameter"}), "qwen_xml_parameter"),
        (formatted({"type": "sequence", "elements": [{"type": "any_text"}, {"type": "any_text"}]}), "any_text"),
        (formatted({"type": "tag", "begin": "a", "content": {"type": "json_schema", "json_schema": 5}}), "JSON schema"),
        (formatted({"type": "or", "elements": {}}), "elements"),
    ],
)
def test_what_cannot_be_enforced_is_an_error(tag: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        StructuredOutputsParams(structural_tag=tag)


def test_deep_formats_are_an_error() -> None:
    format: dict[str, Any] = {"type": "const_string", "value": "a"}
    for _ in range(50):
        format = {"type": "sequence", "elements": [format]}
    with pytest.raises(ValueError, match="deep"):
        StructuredOutputsParams(structural_tag=formatted(format))
