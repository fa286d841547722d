"""EBNF in Lark's dialect: the same language, and errors that name the line."""

import contextlib
import time

import pytest
from acceptance import NotCompiled, accepts

from octavo import gbnf
from octavo.structured import StructuredOutputsParams

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws ( value ("," ws value)* )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space
ws ::= | " " | "\n" [ \t]{0,20}
"""


def check(grammar: str, yes: list[str], no: list[str]) -> None:
    structure = StructuredOutputsParams(grammar=grammar).structure()
    for text in yes:
        assert accepts(structure, text), text
    for text in no:
        assert not accepts(structure, text), text


def test_llama_cpps_grammar_of_json() -> None:
    check(
        JSON,
        ['{"a": [1, 2.5e3, true, {"b": null}], "c": "x\\n"}', "{}", '{"ä": "\\u00e4"}'],
        ['{"a": }', "[]", '{"a" 1}', "{'a': 1}"],
    )


def test_what_leads_to_itself_and_what_does_not() -> None:
    check('root ::= "yes" | "no" tail?\ntail ::= [a-z]* "end"', ["yes", "no", "noend", "noenend"], ["nox", "end"])
    check('root ::= list\nlist ::= "(" list* ")" | [a-z]+ "1"', ["((a1)(b1))", "()", "ab1"], ["(", "a"])
    check('first-rule ::= "a" second.rule?\nsecond.rule ::= "b"', ["a", "ab"], ["b"])


def test_strings_sets_and_counts() -> None:
    check("root ::= 'it''s' \"\\\"\" [\\]^a-c-]{2,3} .", ['its"]^x', 'its"a-bé'], ['its"dd.', 'its"a-'])
    check('root ::= "a"{2} "b"{1,} "c"{,2}', ["aab", "aabbbcc"], ["ab", "aabccc"])
    check('root ::= "\\x41\\u00e4\\U0001F600\\n"', ["Aä😀\n"], ["Aä😀"])
    check('root ::= "" | "a" |', ["", "a"], ["b"])


@pytest.mark.parametrize(
    ("grammar", "match"),
    [
        ('root ::= "a" nothing', "nothing"),
        ('root ::= ("a"', "not closed"),
        ('root ::= "a")', "line 1"),
        ('root ::= "a"\nroot ::= "b"', "line 2"),
        ('root ::= "a"\nb ::= "c" *?', "line 2"),
        ("root ::= [a", "line 1"),
        ("root ::= []", "line 1|empty"),
        ('root ::= "\\ud800"', "no character"),
        ('root ::= "a"{}', "count"),
        ('root ::= @"a"', "line 1"),
        ('::= "a"', "name"),
        ("root ::= " + "(" * 60_000, "deep"),
    ],
)
def test_mistakes_are_named(grammar: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        gbnf.to_lark(grammar)


def test_time_is_linear() -> None:
    chain = "\n".join(f"r{number} ::= r{number + 1} | [a-z]" for number in range(9000)) + '\nr9000 ::= "a"'
    for grammar in (chain, 'root ::= "a" ' + "[a" * 50_000, "root ::= " + '"a" | ' * 50_000, "root ::= '" * 20_000):
        began = time.perf_counter()
        with contextlib.suppress(ValueError):
            gbnf.to_lark(grammar)
        assert time.perf_counter() - began < 3


def test_lark_is_told_from_ebnf() -> None:
    assert not gbnf.is_gbnf('start: "a::=b"\n')
    check('start: "a" B+ "::="\nB: /[0-9]/', ["a12::="], ["b"])
    with pytest.raises(NotCompiled):
        check("start: nothing", ["a"], [])
