"""XGrammar's structural tags as a grammar: free text in which tagged parts have a structure.

The older form has `structures` (begin, schema, end) and `triggers`; the newer one a `format`, of which these are taken:
const_string, json_schema, regex, grammar, any_text, sequence, or, tag, triggered_tags, tags_with_separator.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from octavo import json_schemas

MAX_DEPTH = 32
MAX_TAGS = 1000


def to_lark(tag: Any) -> str:
    """Raises ValueError for what is no structural tag, and for a format that cannot be enforced."""
    if not isinstance(tag, Mapping) or tag.get("type", "structural_tag") != "structural_tag":
        raise ValueError("must be an object of type structural_tag")
    shape = tag["format"] if "format" in tag else _older(tag)
    writer = _Writer()
    start = writer.rule(shape, end="", depth=0)
    return "\n".join([f"start: {start}", *writer.lines]) + "\n"


def _older(tag: Mapping[str, Any]) -> dict[str, Any]:
    structures = _list(tag, "structures")
    tags = []
    for structure in structures:
        if not isinstance(structure, Mapping):
            raise ValueError("structures: must be objects with begin, schema and end")
        content = {"type": "json_schema", "json_schema": structure.get("schema", {})}
        tags.append({"begin": structure.get("begin"), "content": content, "end": structure.get("end", "")})
    return {"type": "triggered_tags", "triggers": tag.get("triggers"), "tags": tags}


class _Writer:
    """Writes a rule for each part of a format."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, body: str, *, attributes: str = "", terminal: bool = False) -> str:
        name = f"{'PART' if terminal else 'part'}_{len(self.lines)}"
        self.lines.append(f"{name}{attributes}: {body}")
        return name

    def rule(self, shape: Any, *, end: str | None, depth: int) -> str:
        """The name of the rule for a format. Text `end` follows and ends free text; None: something else follows."""
        if depth > MAX_DEPTH:
            raise ValueError(f"formats are nested more than {MAX_DEPTH} deep")
        if not isinstance(shape, Mapping):
            raise ValueError("a format must be an object with a type")
        match shape.get("type"):
            case "const_string":
                return self.add(_quoted(_text(shape, "value")))
            case "json_schema":
                return self.add(f"%json {json_schemas.to_text(shape.get('json_schema', {}))}")
            case "regex":
                return self.add(_regex(_text(shape, "pattern")))
            case "any_text":
                if end is None:
                    raise ValueError("any_text: needs a tag with an end around it, or to be the last part")
                return self.free_text(end)
            case "sequence":
                elements = _list(shape, "elements")
                rules = [self.rule(element, end=None, depth=depth + 1) for element in elements[:-1]]
                return self.add(" ".join([*rules, self.rule(elements[-1], end=end, depth=depth + 1)]))
            case "or":
                return self.add(
                    " | ".join(self.rule(one, end=end, depth=depth + 1) for one in _list(shape, "elements"))
                )
            case "tag":
                return self.tag(shape, "", depth)
            case "triggered_tags":
                return self.triggered(shape, end, depth)
            case "tags_with_separator":
                return self.separated(shape, depth)
            case kind:
                raise ValueError(f"a format of type {str(kind)[:40]!r} cannot be enforced")

    def tag(self, shape: Any, skipped: str, depth: int) -> str:
        """A tag; `skipped`, with which it begins, stands before it already."""
        if not isinstance(shape, Mapping):
            raise ValueError("a tag must be an object with begin, content and end")
        begin = _text(shape, "begin")
        ends = shape.get("end", "")
        end = ends[0] if isinstance(ends, list) and len(ends) == 1 else ends
        if not isinstance(end, str):
            raise ValueError("end: must be a string")
        content = shape.get("content")
        is_free = isinstance(content, Mapping) and content.get("type") == "any_text"
        inner = self.rule(content, end=end if is_free else None, depth=depth + 1)
        parts = [_quoted(begin.removeprefix(skipped)), inner]
        if not is_free:
            parts.append(_quoted(end))
        return self.add(" ".join(part for part in parts if part))

    def free_text(self, end: str) -> str:
        """Text up to and with `end`; to the end of the output when that is empty."""
        if not end:
            return self.add(r"/(.|\n)*/")
        return self.add(f"/(.|\\n)*{_escaped(end)}/", attributes="[lazy]")

    def triggered(self, shape: Mapping[str, Any], end: str | None, depth: int) -> str:
        if end != "":
            raise ValueError("triggered_tags must be the last part")
        triggers, tags = _list(shape, "triggers"), _list(shape, "tags")
        if not all(isinstance(trigger, str) and trigger for trigger in triggers):
            raise ValueError("triggers: must be strings, none of them empty")
        options: dict[str, list[str]] = {}
        for tag in tags:
            begin = _text(tag, "begin") if isinstance(tag, Mapping) else ""
            trigger = next((trigger for trigger in triggers if begin.startswith(trigger)), None)
            if trigger is None:
                raise ValueError(f"no trigger begins the tag {begin[:40]!r}")
            options.setdefault(trigger, []).append(self.tag(tag, trigger, depth))
        found = [f"{self.free_text(trigger)} {self.add(' | '.join(rules))}" for trigger, rules in options.items()]
        unused = [trigger for trigger in triggers if trigger not in options]
        if unused:
            raise ValueError(f"no tag begins with the trigger {unused[0][:40]!r}")
        tagged = self.add(" | ".join(found))
        found_any = "|".join(_escaped(trigger) for trigger in triggers)
        rest = self.add(f"/(.|\\n)*/ & ~/(.|\\n)*({found_any})(.|\\n)*/", terminal=True)
        once, least = shape.get("stop_after_first") is True, shape.get("at_least_one") is True
        repeat = "" if once and least else "?" if once else "+" if least else "*"
        return self.add(f"{tagged}{repeat}" if once and least else f"{tagged}{repeat} {rest}")

    def separated(self, shape: Mapping[str, Any], depth: int) -> str:
        tags = self.add(" | ".join(self.tag(tag, "", depth) for tag in _list(shape, "tags")))
        separator = shape.get("separator", "")
        if not isinstance(separator, str):
            raise ValueError("separator: must be a string")
        more = "" if shape.get("stop_after_first") is True else f" ({_quoted(separator)} {tags})*"
        some = self.add(f"{tags}{more}")
        return some if shape.get("at_least_one") is True else self.add(f"{some}?")


def _text(shape: Mapping[str, Any], name: str) -> str:
    value = shape.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name}: must be a string")
    return value


def _list(shape: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = shape.get(name)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name}: must be a list, and not empty")
    if len(value) > MAX_TAGS:
        raise ValueError(f"{name}: at most {MAX_TAGS}, not {len(value)}")
    return value


def _quoted(text: str) -> str:
    """A literal; nothing for an empty one."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def _escaped(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", lambda match: f"\\x{{{ord(match.group()):x}}}", text)


def _regex(pattern: str) -> str:
    """Between slashes, with those inside escaped."""
    escaped = {"/": r"\/", "\n": r"\n"}
    return "/" + re.sub(r"\\.|/|\n", lambda match: escaped.get(match.group(), match.group()), pattern) + "/"
