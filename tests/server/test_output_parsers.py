"""The parsers of tool calls and reasoning: what they read, that cuts of a stream do not matter, and the work."""

import itertools
import json
import random
import sys
from typing import Any

import pytest
from output_corpus import CASES, REASONING, SCHEMAS

from octavo.server.markup.reader import Markers
from octavo.server.markup.sink import GrammarParser, Sink, mistral_call_id
from octavo.server.markup.tidy import Tidy
from octavo.server.parts import Content, OutputParser, Part, Reasoning, ToolCallArguments, ToolCallStart
from octavo.server.reasoning.styles import STYLES
from octavo.server.reasoning.thinking import Thinking
from octavo.server.tools import registry
from octavo.server.tools.forced import named_call, required_calls
from octavo.server.tools.schema_types import ParameterTypes

DISTINCT = sorted({id(parser): name for name, parser in registry.PARSERS.items()}.values())
"""One name for each parser."""


def tool_parser(name: str) -> GrammarParser:
    parser = registry.PARSERS[name]
    return GrammarParser(parser.grammar(ParameterTypes(SCHEMAS)), Sink(make_id=lambda index, _name: f"id{index}"))


def read(parser: OutputParser, pieces: list[str] | str, special_tokens: tuple[str, ...] | None = None) -> list[Part]:
    tidy = Tidy(None if special_tokens is None else Markers(special_tokens))
    parts: list[Part] = []
    for piece in pieces:
        parts += tidy.take(parser.push(piece))
    return [*parts, *tidy.take(parser.finish()), *tidy.finish()]


def joined(parts: list[Part]) -> list[Any]:
    """The parts with neighbours of one kind put together: [kind, text…]."""
    out: list[Any] = []
    for part in parts:
        match part:
            case ToolCallStart(index, id, name):
                out.append(["call", index, id, name, ""])
            case ToolCallArguments(index, text):
                assert out[-1][:2] == ["call", index]
                out[-1][4] += text
            case Content(text) | Reasoning(text):
                kind = "content" if isinstance(part, Content) else "reasoning"
                if out and out[-1][0] == kind:
                    out[-1][1] += text
                else:
                    out.append([kind, text])
    return out


def said(parts: list[Part]) -> list[Any]:
    """The parts as the corpus writes them."""
    return [entry[1] if entry[0] == "content" else ("thinks", entry[1]) if entry[0] == "reasoning" else call(entry)
            for entry in joined(parts)]  # fmt: skip


def call(entry: list[Any]) -> tuple[str, Any]:
    try:
        return entry[3], json.loads(entry[4])
    except ValueError:
        return entry[3], entry[4]


@pytest.mark.parametrize(("name", "output", "expected"), CASES)
def test_reads_the_corpus(name: str, output: str, expected: list[Any]) -> None:
    whole = read(tool_parser(name), [output])
    assert said(whole) == expected
    for cut in range(len(output) + 1):
        assert joined(read(tool_parser(name), [output[:cut], output[cut:]])) == joined(whole), cut
    assert joined(read(tool_parser(name), output)) == joined(whole)


@pytest.mark.parametrize(("style", "opened", "output", "expected"), REASONING)
def test_reads_reasoning(style: str, opened: bool | None, output: str, expected: list[Any]) -> None:
    def parser() -> Thinking:
        return Thinking(STYLES[style], tool_parser("hermes"), opened=opened)

    whole = read(parser(), [output])
    assert said(whole) == expected
    for first, second in itertools.combinations(range(len(output) + 1), 2):
        pieces = [output[:first], output[first:second], output[second:]]
        assert joined(read(parser(), pieces)) == joined(whole), pieces


def test_pairs_of_cuts() -> None:
    for name, output, _ in CASES:
        whole = joined(read(tool_parser(name), [output]))
        if len(output) <= 48:
            for first, second in itertools.combinations(range(len(output) + 1), 2):
                pieces = [output[:first], output[first:second], output[second:]]
                assert joined(read(tool_parser(name), pieces)) == whole, pieces


@pytest.mark.parametrize("name", DISTINCT)
def test_mutilated_outputs_lose_nothing_and_raise_nothing(name: str) -> None:
    """Outputs of this format and of others, with pieces left out, doubled and swapped."""
    chance = random.Random(6)
    outputs = [output for parser, output, _ in CASES if parser == name] or [CASES[1][1]]
    for _ in range(20):
        text = chance.choice(outputs) + chance.choice(CASES)[1]
        for _ in range(chance.randrange(4)):
            start = chance.randrange(len(text))
            end = min(len(text), start + chance.randrange(12))
            text = text[:start] + chance.choice(["", text[start:end] * 2, "{", '"', "\\", "\ud83c", "]"]) + text[end:]
        whole = joined(read(tool_parser(name), [text]))
        cuts = sorted(chance.choices(range(len(text) + 1), k=5))
        pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
        assert joined(read(tool_parser(name), pieces)) == whole, pieces
        assert joined(read(tool_parser(name), text)) == whole
        if not any(entry[0] == "call" for entry in whole) and name != "openai":
            assert "".join(entry[1] for entry in whole if entry[0] == "content") == text


FILLERS = ("{", '"', "\\", "<", '{"name": "', "\n", "(")


@pytest.mark.parametrize("name", DISTINCT)
def test_the_work_is_linear(name: str) -> None:
    """Counts the calls that Python makes, for hostile outputs of length n and 4 n, in one piece and one by one."""
    for opening in dict.fromkeys([*registry.PARSERS[name].markers[:3], '{"name": "f", "parameters": ', "[f(a="]):
        for filler in dict.fromkeys([*FILLERS, opening]):
            small, large = (opening + filler * count for count in (40, 160))
            assert calls_made(name, [large]) < 5 * calls_made(name, [small]) + 500, (opening, filler)
            assert calls_made(name, list(large)) < 5 * calls_made(name, list(small)) + 500, (opening, filler)


def calls_made(name: str, pieces: list[str]) -> int:
    num_calls = 0

    def count(_frame: Any, _event: str, _argument: Any) -> None:
        nonlocal num_calls
        num_calls += 1

    parser = tool_parser(name)
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        read(parser, pieces)
    finally:
        sys.setprofile(before)
    return num_calls


def test_special_tokens_are_not_shown() -> None:
    for pieces in (["a <|im_end|>b<|im_x"], list("a <|im_end|>b<|im_x")):
        assert said(read(tool_parser("hermes"), pieces, ("<|im_end|>", "<|im_start|>"))) == ["a b<|im_x"]


def test_forced_calls() -> None:
    output = ' {"city": "Paris"}'
    assert said(read(GrammarParser(named_call("weather")), list(output))) == [("weather", {"city": "Paris"})]
    output = '[{"name": "f", "parameters": {"a": "\\n"}}, {"name": "g", "parameters": {}}]'
    assert said(read(GrammarParser(required_calls), list(output))) == [("f", {"a": "\n"}), ("g", {})]
    assert said(read(GrammarParser(required_calls), [output[:44]])) == [("f", {"a": "\n"})]


def test_names_that_may_not_be_called_are_content() -> None:
    output = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    grammar = registry.PARSERS["hermes"].grammar(ParameterTypes({}))
    assert said(read(GrammarParser(grammar, Sink(names={"g"})), [output])) == [output]
    assert said(read(GrammarParser(grammar, Sink(names={"f"})), [output])) == [("f", {})]


def test_call_ids() -> None:
    ids = {part.id for part in read(GrammarParser(named_call("f")), ["{}"]) if isinstance(part, ToolCallStart)}
    assert all(id.startswith("chatcmpl-tool-") for id in ids)
    assert len(mistral_call_id(0, "f")) == 9
    assert mistral_call_id(0, "f").isalnum()


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        ("{{ '<tool_call>' }}{{ '</think>' }}", "hermes", "qwen3"),
        ("[TOOL_CALLS] [THINK]", "mistral", "mistral"),
        ("<tool_call><function=", "qwen3_coder", None),
        ('Respond in the format {"name": function name, "parameters": dictionary of', "llama3_json", None),
        ("<|channel|><|message|>", "openai", "openai_gptoss"),
        ("<｜tool▁calls▁begin｜>", "deepseek_v3", None),
        ("{{ messages }}", None, None),
    ],
)
def test_parsers_from_the_template(template: str, tools: str | None, reasoning: str | None) -> None:
    from octavo.server.reasoning.styles import style_of_template

    assert registry.parser_of_template(template) == tools
    assert style_of_template(template) == reasoning


def test_what_a_prompt_opens() -> None:
    assert STYLES["qwen3"].opened_by("…assistant\n<think>\n") is True
    assert STYLES["qwen3"].opened_by("…assistant\n<think>\n\n</think>\n\n") is False
    assert STYLES["qwen3"].opened_by("…assistant\n") is None
    assert STYLES["deepseek_r1"].opened_by("…assistant\n") is True
