"""Grammars (llguidance's Lark) of whole outputs, put together from the structure of the answer and what is before it.

Rules of our own begin with `octavo_`, so that they do not meet those of a grammar that a request brings.
"""

import re

from octavo.server.reasoning.styles import ReasoningStyle
from octavo.structured import Structure

_MEANINGFUL = re.compile(r"([\\.+*?()|\[\]{}^$/-])")
_BARE_SLASH = re.compile(r"(?<!\\)/")
_START = re.compile(r"\bstart\b")
_START_RULE = re.compile(r"^start(?=\s*:)", re.MULTILINE)
_TEXT = "OCTAVO_TEXT: /(.|\\n)*/\n"
_SPACE = "OCTAVO_SPACE: /[ \\n]+/\n"
ANALYSIS = (
    'start: (<|channel|> "analysis" <|message|> OCTAVO_TEXT <|end|> <|start|> "assistant")? octavo_answer\n' + _TEXT
)
"""gpt-oss: the rule `octavo_answer` follows, behind an analysis if the model makes one."""


def rule_of(name: str, structure: Structure) -> str | None:
    """The structure as the rule `name`, and the rules it needs. None for a grammar that refers to its own start."""
    match structure.kind:
        case "json_schema":
            return f"{name}: %json {structure.text}\n"
        case "regex":
            return f"{name}: /{_slashes_escaped(structure.text)}/\n"
    if len(_START.findall(structure.text)) != 1 or "%llguidance" in structure.text:
        return None
    renamed, found = _START_RULE.subn(name, structure.text)
    return renamed.rstrip() + "\n" if found else None


def behind_reasoning(style: ReasoningStyle, structure: Structure, *, special_tokens: bool) -> Structure | None:
    """`structure`, which reasoning may precede. None where it cannot be part of a grammar.

    `special_tokens`: whether the tokenizer has the style's markers as special tokens, which no text matches.
    """
    answer = rule_of("octavo_answer", structure)
    if answer is None:
        return None
    if special_tokens:
        reasoning = f"octavo_reasoning: {style.starts[0]} OCTAVO_TEXT {style.ends[0]} OCTAVO_SPACE?\n{_TEXT}"
    else:
        marked = f"/{_any(style.starts)}(.|\\n)*{_any(style.ends)}/"
        reasoning = f"octavo_reasoning: octavo_thinking OCTAVO_SPACE?\noctavo_thinking[lazy]: {marked}\n"
    return Structure("lark", f"start: octavo_reasoning? octavo_answer\n{reasoning}{_SPACE}{answer}")


def in_channel(structure: Structure) -> Structure | None:
    """gpt-oss: `structure` as the final channel's text. None where it cannot be part of a grammar."""
    answer = rule_of("octavo_structure", structure)
    if answer is None:
        return None
    final = 'octavo_answer: <|channel|> "final" <|message|> octavo_structure\n'
    return Structure("lark", f"{ANALYSIS}{final}{answer}")


def _any(strings: tuple[str, ...]) -> str:
    return "(" + "|".join(_MEANINGFUL.sub(r"\\\1", string) for string in strings) + ")"


def _slashes_escaped(regex: str) -> str:
    return _BARE_SLASH.sub(r"\\/", regex)
