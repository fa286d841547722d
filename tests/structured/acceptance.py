"""Which texts a structure lets through: by llguidance's own Python package, which is the engine's compiler."""

import json

from llguidance import LLMatcher, LLTokenizer

from octavo.structured import Structure

TOKENIZER = LLTokenizer("byte")


class NotCompiled(Exception):
    """The compiler refuses the grammar: a request with it is a 400."""


def matcher(structure: Structure) -> LLMatcher:
    match structure.kind:
        case "json_schema":
            grammar = LLMatcher.grammar_from_json_schema(json.loads(structure.text))
        case "regex":
            grammar = LLMatcher.grammar_from_regex(structure.text)
        case _:
            grammar = LLMatcher.grammar_from_lark(structure.text)
    made = LLMatcher(TOKENIZER, grammar, log_level=0)
    if made.is_error():
        raise NotCompiled(made.get_error())
    return made


def accepts(structure: Structure | None, text: str) -> bool:
    """Whether a text is a whole output. Raises NotCompiled."""
    assert structure is not None
    made, tokens = matcher(structure), list(text.encode())
    return bool(made.try_consume_tokens(tokens) == len(tokens) and made.is_accepting())
