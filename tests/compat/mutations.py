"""Broken requests without end, the same for the same seed: recorded ones (wire.py) with fields and bytes changed."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from wire import examples

from octavo.server import fields

NUMBERS = [0, -1, 1, 2, 2**31, 2**63, 2**64, -(2**63), 1e308, -1e308, 0.0, 0.5, 1e-320, True, False]
TEXTS = [
    "",
    "x",
    "\u0000",
    "\ud7ff",
    "a" * 5000,
    "\u2202" * 100,
    "auto",
    "none",
    "user",
    "(",
    "{{ 1 }}",
    "root ::= root",
]
LISTS = [[], [[]], [1], [-1], [70000], [None], ["a"] * 70, [""], [[1, 2], [3]], [{}]]
OBJECTS = [{}, {"a": {}}, {"x": 1}, {"5": "y"}, {"role": "x"}, {"type": "object"}, {"type": "text"}, {"$ref": "#"}]
VALUES: list[Any] = [None, *NUMBERS, *TEXTS, *LISTS, *OBJECTS]
INSERTIONS = [b"1e999", b"NaN", b"\xff\xfe", b"[[[[", b"\\ud800", b"{", b'"']
TABLES = (fields.CHAT, fields.COMPLETION)
NAMES = sorted(
    {"unheard_of", "extra_body"}.union(*({*table.enforced, *table.inert, *table.refused} for table in TABLES))
)


def requests(seed: int, count: int) -> Iterator[tuple[str, str, bytes]]:
    """(server, path, body) of each; some are left as they are."""
    choose = random.Random(seed)
    whole = [one for one in examples() if one["method"] == "POST" and isinstance(one.get("body"), dict)]
    whole = [one for one in whole if "headers" not in one]
    for _ in range(count):
        example = choose.choice(whole)
        body = json.dumps(mutated(choose, example["body"])).encode()
        is_torn = choose.random() < 0.1
        yield example["server"], example["path"], torn(choose, body) if is_torn else body


def mutated(choose: random.Random, body: dict[str, Any]) -> dict[str, Any]:
    """A copy with up to three places dropped, replaced, or added."""
    body = copy.deepcopy(body)
    for _ in range(choose.choice([0, 1, 1, 1, 2, 3])):
        places = list(containers(body))
        inside = choose.choice(places)
        if inside is body and choose.random() < 0.6:
            body[choose.choice(NAMES)] = copy.deepcopy(choose.choice(VALUES))
        elif inside:
            key = choose.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
            if choose.random() < 0.25:
                del inside[key]
            else:
                inside[key] = copy.deepcopy(choose.choice(VALUES))
    return body


def containers(value: Any) -> Iterator[Any]:
    """Every object and list in `value`, itself included."""
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


def torn(choose: random.Random, text: bytes) -> bytes:
    """`text` with up to four places overwritten, cut or filled."""
    body = bytearray(text)
    for _ in range(choose.randint(1, 4)):
        place = choose.randrange(len(body))
        kind = choose.random()
        if kind < 0.5:
            body[place] = choose.randrange(256)
        elif kind < 0.8:
            del body[place : place + choose.randint(1, 9)]
        else:
            body[place:place] = choose.choice(INSERTIONS)
        body = body or bytearray(b"{")
    return bytes(body)
