"""Grammars (llguidance's Lark) of calls in a model's own format, where it may call and need not.

They are for requests that also want something of the answer that is no call: a structure, or, with `strict` functions,
that calls keep to their schemas.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from octavo.server.reasoning.grammar import ANALYSIS, rule_of
from octavo.structured import Structure


@dataclass(frozen=True)
class CallForm:
    """A call as the model writes it: open, before (with the name), the arguments, after, close."""

    open: str
    before: str
    after: str
    close: str

    @property
    def marked(self) -> bool:
        return bool(self.open)


HERMES = CallForm("<tool_call>", '\n{"name": NAME, "arguments": ', "}\n", "</tool_call>")
LONGCAT = CallForm("<longcat_tool_call>", '\n{"name": NAME, "arguments": ', "}\n", "</longcat_tool_call>")
LLAMA3 = CallForm("", '{"name": NAME, "parameters": ', "}", "")


def calls_or_answer(
    form: CallForm, schemas: Mapping[str, str], answer: Structure | None, *, special_tokens: bool
) -> Structure | None:
    """Calls, or text with this structure (None: any text, and calls between). None where that is no grammar.

    `schemas`: those of the arguments, as JSON. `special_tokens`: whether the markers are special tokens.
    """
    calls = _calls(form, schemas, special_tokens=special_tokens)
    if answer is not None:
        text = rule_of("octavo_text", answer)
        return None if text is None else Structure("lark", f"start: octavo_calls | octavo_text\n{calls}{text}")
    if not form.marked:
        return None
    if special_tokens:
        return Structure("lark", f"start: OCTAVO_ANY? (octavo_calls OCTAVO_ANY?)*\nOCTAVO_ANY: /(.|\\n)+/\n{calls}")
    # What begins a call is the marker that ends the text before it, whatever the text.
    marker = "".join(f"\\x{{{ord(character):x}}}" for character in form.open)
    text = f"octavo_text[lazy]: /(.|\\n)*{marker}/\nOCTAVO_REST: /(.|\\n)*/ & ~/(.|\\n)*{marker}(.|\\n)*/\n"
    rules = _calls(form, schemas, special_tokens=False, opened=True)
    return Structure("lark", f"start: (octavo_text octavo_call)* OCTAVO_REST\n{text}{rules}")


def channel_calls_or_answer(schemas: Mapping[str, str], answer: Structure | None) -> Structure | None:
    """gpt-oss: one call, or (with `answer`) a final message with that structure."""
    rules = "".join(
        f"octavo_call_{number}: <|channel|> {json.dumps(f'commentary to=functions.{name} ')} <|constrain|> "
        f'"json" <|message|> octavo_arguments_{number}\noctavo_arguments_{number}: %json {schema}\n'
        for number, (name, schema) in enumerate(schemas.items())
    )
    options = [f"octavo_call_{number}" for number in range(len(schemas))]
    if answer is not None:
        text = rule_of("octavo_structure", answer)
        if text is None:
            return None
        options.append("octavo_final")
        rules += f'octavo_final: <|channel|> "final" <|message|> octavo_structure\n{text}'
    return Structure("lark", f"{ANALYSIS}octavo_answer: {' | '.join(options)}\n{rules}")


def _calls(form: CallForm, schemas: Mapping[str, str], *, special_tokens: bool, opened: bool = False) -> str:
    """The rules octavo_calls and octavo_call; `opened`: the opening marker was read already."""

    def literal(marker: str) -> str:
        return (marker if special_tokens else json.dumps(marker)) if marker else ""

    rules = []
    for number, (name, schema) in enumerate(schemas.items()):
        before = json.dumps(form.before.replace("NAME", json.dumps(name)))
        parts = ("" if opened else literal(form.open), before, f"octavo_arguments_{number}", json.dumps(form.after))
        body = " ".join(part for part in (*parts, literal(form.close)) if part)
        rules.append(f"octavo_call_{number}: {body}\noctavo_arguments_{number}: %json {schema}\n")
    options = " | ".join(f"octavo_call_{number}" for number in range(len(schemas)))
    between = '("\\n"? octavo_call)*' if form.marked else ""
    return f"octavo_calls: octavo_call {between}\noctavo_call: {options}\n{''.join(rules)}"
