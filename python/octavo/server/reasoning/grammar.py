"""Grammars (llguidance's Lark) of answers that may begin with reasoning, for models that decide it themselves."""

import re

from octavo.server.reasoning.styles import ReasoningStyle
from octavo.structured import Structure

_MEANINGFUL = re.compile(r"([\\.+*?()|\[\]{}^$/-])")
_BARE_SLASH = re.compile(r"(?<!\\)/")
_TEXT = "TEXT: /(.|\\n)*/\n"


def rule_of(structure: Structure) -> str | None:
    """What stands for the structure on the right of a rule; None for one that has rules of its own."""
    if structure.kind == "json_schema":
        return f"%json {structure.text}"
    return f"/{_slashes_escaped(structure.text)}/" if structure.kind == "regex" else None


def behind_reasoning(style: ReasoningStyle, structure: Structure, *, special_tokens: bool) -> Structure | None:
    """`structure`, which reasoning may precede. None where it cannot be part of a grammar.

    `special_tokens`: whether the tokenizer has the style's markers as special tokens, which no text matches.
    """
    answer = rule_of(structure)
    if answer is None:
        return None
    if special_tokens:
        reasoning = f"reasoning: {style.starts[0]} TEXT {style.ends[0]} SPACE?\n{_TEXT}SPACE: /[ \\n]+/\n"
    else:
        reasoning = f"reasoning: thinking SPACE?\nthinking[lazy]: /{_any(style.starts)}(.|\\n)*{_any(style.ends)}/\n"
        reasoning += "SPACE: /[ \\n]+/\n"
    return Structure("lark", f"start: reasoning? answer\n{reasoning}answer: {answer}\n")


def in_channel(structure: Structure) -> Structure | None:
    """gpt-oss: `structure` as the final channel's text, behind an analysis if the model makes one."""
    answer = rule_of(structure)
    if answer is None:
        return None
    return Structure("lark", f'{ANALYSIS}answer: <|channel|> "final" <|message|> structure\nstructure: {answer}\n')


ANALYSIS = f'start: (<|channel|> "analysis" <|message|> TEXT <|end|> <|start|> "assistant")? answer\n{_TEXT}'
"""The beginning of a grammar for gpt-oss; the rule `answer` follows."""


def _any(strings: tuple[str, ...]) -> str:
    return "(" + "|".join(_MEANINGFUL.sub(r"\\\1", string) for string in strings) + ")"


def _slashes_escaped(regex: str) -> str:
    return _BARE_SLASH.sub(r"\\/", regex)
