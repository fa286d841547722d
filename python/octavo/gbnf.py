"""EBNF, as llama.cpp (GBNF) and XGrammar write it, into the dialect of Lark that the engine compiles.

A rule that does not lead back to itself becomes one terminal, which is a regular expression and as exact as the rule.
The others stay rules.

    root ::= "yes" | "no" item*      # a comment
"""

import json
import re
from collections.abc import Iterator

MAX_DEPTH = 100
MAX_RULES = 10_000

TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
      | (?P<newline>\n)
      | (?P<define>::=)
      | (?P<name>[A-Za-z_][A-Za-z0-9_.-]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<set>\[\^?\]?(?:[^\]\\]|\\.)*\])
      | (?P<repeat>\{[ ]*[0-9]*[ ]*(?:,[ ]*[0-9]*[ ]*)?\}|[*+?])
      | (?P<open>\()
      | (?P<close>\))
      | (?P<or>\|)
      | (?P<any>\.)""",
    re.VERBOSE | re.DOTALL,
)
DEFINITION = re.compile(r"^[ \t]*[A-Za-z_][A-Za-z0-9_.-]*[ \t]*::=", re.MULTILINE)
ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)
CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "b": "\b", "0": "\0"}


def is_gbnf(grammar: str) -> bool:
    """Whether a grammar's rules are written with `::=`, and not as Lark writes them."""
    return DEFINITION.search(grammar) is not None


def to_lark(grammar: str) -> str:
    """Raises ValueError, naming the line, for what is no such grammar. Linear in the grammar's length."""
    rules = _rules(grammar)
    if not rules:
        raise ValueError("the grammar has no rules")
    root = "root" if "root" in rules else next(iter(rules))
    for name, body in rules.items():
        for kind, text in body:
            if kind == "name" and text not in rules:
                raise ValueError(f"rule {name!r} uses {text!r}, which is not defined")
    recursive = _recursive(rules)
    names = {name: f"{'rule' if name in recursive else 'TERMINAL'}_{number}" for number, name in enumerate(rules)}
    lines = [f"start: {names[root]}"]
    for name, body in rules.items():
        words = [_word(kind, text, names) for kind, text in body]
        lines.append(f"{names[name]}: {' '.join(words) or _string('')}")
    return "\n".join(lines) + "\n"


def _scan(grammar: str) -> Iterator[tuple[str, str, int]]:
    """(kind, text, line) of each token."""
    position, line = 0, 1
    while position < len(grammar):
        match = TOKEN.match(grammar, position)
        if match is None:
            raise ValueError(f"line {line}: {grammar[position : position + 20]!r} cannot be understood")
        position = match.end()
        kind, text = match.lastgroup or "", match.group()
        if kind not in ("space", "newline"):
            yield kind, text, line
        line += text.count("\n")


def _rules(grammar: str) -> dict[str, list[tuple[str, str]]]:
    """Each rule's tokens, by name and in order. A rule ends where the next one's `name ::=` begins."""
    tokens = list(_scan(grammar))
    rules: dict[str, list[tuple[str, str]]] = {}
    body: list[tuple[str, str]] | None = None
    depth = 0
    for index, (kind, text, line) in enumerate(tokens):
        following = tokens[index + 1][0] if index + 1 < len(tokens) else ""
        if kind == "name" and following == "define":
            if depth:
                raise ValueError(f"line {line}: a bracket is not closed before {text!r}")
            if text in rules:
                raise ValueError(f"line {line}: rule {text!r} is defined twice")
            if len(rules) >= MAX_RULES:
                raise ValueError(f"line {line}: more than {MAX_RULES} rules")
            body = rules[text] = []
        elif kind == "define":
            if index == 0 or tokens[index - 1][0] != "name":
                raise ValueError(f"line {line}: '::=' needs a name before it")
        elif body is None:
            raise ValueError(f"line {line}: {text[:20]!r} stands before the first rule")
        else:
            depth += {"open": 1, "close": -1}.get(kind, 0)
            if not 0 <= depth <= MAX_DEPTH:
                raise ValueError(f"line {line}: brackets do not match, or are more than {MAX_DEPTH} deep")
            previous = body[-1][0] if body else "or"
            if kind == "repeat" and previous in ("or", "open", "repeat"):
                raise ValueError(f"line {line}: nothing stands before {text!r}")
            if kind in ("or", "close") and previous in ("or", "open"):
                body.append(("string", '""'))
            body.append((kind, text))
    if depth:
        raise ValueError("a bracket is not closed")
    for tokens_of_rule in rules.values():
        if tokens_of_rule and tokens_of_rule[-1][0] == "or":
            tokens_of_rule.append(("string", '""'))
    return rules


def _recursive(rules: dict[str, list[tuple[str, str]]]) -> set[str]:
    """The rules that lead to themselves, or to one that does."""
    users: dict[str, list[str]] = {name: [] for name in rules}
    missing = {}
    for name, body in rules.items():
        used = {text for kind, text in body if kind == "name"}
        missing[name] = len(used)
        for other in used:
            users[other].append(name)
    done = [name for name, count in missing.items() if count == 0]
    for name in done:
        for user in users[name]:
            missing[user] -= 1
            if missing[user] == 0:
                done.append(user)
    return set(rules).difference(done)


def _word(kind: str, text: str, names: dict[str, str]) -> str:
    match kind:
        case "name":
            return names[text]
        case "string":
            return _string(_unescape(text[1:-1]))
        case "set":
            return f"/{_set(text)}/"
        case "any":
            return r"/[^\n]/"
        case "repeat":
            return _repeat(text)
        case _:
            return text


def _repeat(text: str) -> str:
    if len(text) == 1:
        return text
    least, comma, most = (part.strip() for part in text[1:-1].partition(","))
    if not least and not most:
        raise ValueError(f"{text!r} gives no count")
    return f"{{{least or 0}{comma}{most}}}"


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _unescape(text: str) -> str:
    return ESCAPE.sub(lambda match: _character(match.group(1)), text)


def _character(escape: str) -> str:
    if len(escape) > 1:
        code = int(escape[1:], 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise ValueError(f"\\{escape} is no character")
        return chr(code)
    return CONTROLS.get(escape, escape)


def _set(text: str) -> str:
    """A set of characters, as a regular expression of the engine has it."""
    negated = text.startswith("[^")
    inner = text[2 if negated else 1 : -1]
    if not inner:
        raise ValueError("a set of characters is empty")
    parts: list[str] = []
    position = 0
    while position < len(inner):
        match = ESCAPE.match(inner, position)
        if match is None:
            character, position = inner[position], position + 1
            is_range = character == "-" and parts and position < len(inner)
            parts.append("-" if is_range else _in_set(character))
        elif match.group(1) in "dwsDWS":
            parts.append(match.group())
            position = match.end()
        else:
            parts.append(_in_set(_character(match.group(1))))
            position = match.end()
    return f"[{'^' if negated else ''}{''.join(parts)}]"


def _in_set(character: str) -> str:
    if character.isalnum() and character.isascii():
        return character
    return f"\\x{{{ord(character):x}}}"
