"""Structures of the output, end to end with the real SmolLM2: every way to ask for one gives an answer that has it, or
a 400, and what one request asks for changes no other.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from server_process import Client, ServerProcess, connect

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
SMALL = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
TAG = {
    "type": "structural_tag",
    "format": {
        "type": "tag",
        "begin": "<r>",
        "content": {"type": "json_schema", "json_schema": {"type": "integer", "maximum": 99}},
        "end": "</r>",
    },
}
OLDER_TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<r=a>", "schema": SMALL, "end": "</r>"}],
    "triggers": ["<r="],
}
LARK = 'start: GREETING " " NAME\nGREETING: "Hello" | "Bye"\nNAME: /[A-Z][a-z]{1,8}/'
EBNF = 'root ::= ("yes" | "no") list?\nlist ::= "(" [0-9] list? ")"'

Check = Callable[[str], Any]


def valid(schema: Any) -> Check:
    return lambda text: jsonschema.validate(json.loads(text), schema)


def matching(pattern: str) -> Check:
    def check(text: str) -> None:
        assert re.fullmatch(pattern, text), text

    return check


def an_object(text: str) -> None:
    assert isinstance(json.loads(text), dict)


def tagged(text: str) -> None:
    for part in text.split("<r=")[1:]:
        inner = re.match(r"a>(.*?)</r>", part, re.DOTALL)
        assert inner is not None, text
        valid(SMALL)(inner[1])


REPLY = matching(r"(yes|no)(\(\d(\(\d)*\)*)?")
GREETING = matching("(Hello|Bye) [A-Z][a-z]{1,8}")
WAYS: list[tuple[str, Any, Check]] = [
    ("response_format", {"type": "json_object"}, an_object),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}, valid(PERSON)),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": SMALL}},
        valid(SMALL),
    ),
    ("response_format", TAG, matching(r"<r>-?\d+</r>")),
    ("response_format", OLDER_TAG, tagged),
    ("structured_outputs", {"json": PERSON}, valid(PERSON)),
    ("structured_outputs", {"json": json.dumps(SMALL), "disable_any_whitespace": True}, matching(r'\{"ok":\w+\}')),
    ("structured_outputs", {"regex": r"^\d{3}-[a-f]{4}$"}, matching(r"\d{3}-[a-f]{4}")),
    ("structured_outputs", {"choice": ["red", "green", "a very long one"]}, matching("red|green|a very long one")),
    ("structured_outputs", {"grammar": LARK}, GREETING),
    ("structured_outputs", {"grammar": EBNF}, REPLY),
    ("structured_outputs", {"json_object": True}, an_object),
    ("structured_outputs", {"structural_tag": json.dumps(TAG)}, matching(r"<r>-?\d+</r>")),
    ("guided_json", PERSON, valid(PERSON)),
    ("guided_json", json.dumps(SMALL), valid(SMALL)),
    ("guided_regex", "(ab|cd){3}", matching("(ab|cd){3}")),
    ("guided_choice", ["Paris", "Rome"], matching("Paris|Rome")),
    ("guided_grammar", LARK, GREETING),
    ("guided_grammar", EBNF, REPLY),
    ("extra_body", {"guided_json": SMALL, "guided_whitespace_pattern": "[ ]?"}, valid(SMALL)),
    ("extra_body", {"guided_choice": ["x", "y"], "guided_decoding_backend": "outlines"}, matching("[xy]")),
    ("extra_body", {"structured_outputs": {"choice": ["x", "y"]}}, matching("[xy]")),
]


async def answers(client: Client, body: dict[str, Any], *, chat: bool, stream: bool) -> list[tuple[str, str]]:
    """The text and finish reason of each choice."""
    if chat:
        path, body = "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": "Describe Anna."}]}
    else:
        path, body = "/v1/completions", {**body, "prompt": "Anna is"}
    if not stream:
        status, answer = await client.post(path, body)
        assert status == 200, answer
        return [
            (choice["message"]["content"] if chat else choice["text"], choice["finish_reason"])
            for choice in answer["choices"]
        ]
    texts, reasons = [""] * body["n"], [""] * body["n"]
    for event in await client.stream(path, body):
        for choice in event["choices"]:
            texts[choice["index"]] += (choice["delta"].get("content") or "") if chat else choice["text"]
            reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    return list(zip(texts, reasons, strict=True))


@pytest.mark.parametrize(("chat", "stream"), list(product((True, False), (True, False))))
async def test_every_way_gives_what_it_asks_for(model_client: Client, chat: bool, stream: bool) -> None:
    await check_every_way(model_client, chat=chat, stream=stream)


async def check_every_way(client: Client, *, chat: bool, stream: bool, **fields: Any) -> None:
    """Every answer that was not cut is what its structure allows; `fields` are in every request."""

    async def ask(name: str, value: Any, check: Check, n: int) -> bool:
        body = {name: value, "n": n, "temperature": 1.0, "seed": 3, "max_tokens": 48, **fields}
        finished = 0
        for text, reason in await answers(client, body, chat=chat, stream=stream):
            assert reason in ("stop", "length")
            if reason == "stop":
                finished += 1
                check(text)
        return finished > 0

    # Of the two numbers of choices each way has one here, and the other one elsewhere.
    asked = [ask(*way, n=1 + (index + chat + stream) % 2) for index, way in enumerate(WAYS)]
    finished = await asyncio.gather(*asked)
    # What may grow without end is sometimes cut by max_tokens.
    assert sum(finished) >= len(WAYS) - 5


BAD: list[tuple[str, Any]] = [
    ("guided_regex", "("),
    ("guided_regex", "(" * 60_000 + ")" * 60_000),
    ("guided_grammar", "root ::= ("),
    ("guided_grammar", "root ::= missing"),
    ("guided_grammar", "start: missing"),
    ("guided_grammar", "start: " + "(" * 60_000 + '"a"' + ")" * 60_000),
    ("guided_json", {"type": "nonsense"}),
    ("guided_json", "{"),
    ("guided_json", '{"items":' * 60_000 + "{}" + "}" * 60_000),
    ("guided_json", {"type": "array", "uniqueItems": True}),
    ("guided_json", {"$ref": "#/$defs/none"}),
    ("guided_json", {"type": "string", "pattern": "("}),
    ("guided_choice", [""]),
    ("structured_outputs", {"regex": "a", "choice": ["a"]}),
    ("structured_outputs", {"yaml": "a"}),
    ("structured_outputs", {"structural_tag": "{}"}),
    ("response_format", {"type": "yaml"}),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}),
    ("guided_whitespace_pattern", " "),
    ("thinking_token_budget", 5),
]


async def test_what_cannot_be_enforced_is_a_400_and_changes_no_neighbour(model_client: Client) -> None:
    neighbour = {"prompt": "The sky is", "max_tokens": 40, "temperature": 0, "return_token_ids": True}
    _, alone = await model_client.post("/v1/completions", neighbour)

    async def refused(name: str, value: Any, stream: bool) -> None:
        body = {"prompt": "Anna is", "max_tokens": 5, "stream": stream, name: value}
        status, answer = await model_client.post("/v1/completions", body)
        assert (status, answer["error"]["param"]) == (400, name), answer
        assert len(answer["error"]["message"]) < 1000
        assert "Traceback" not in answer["error"]["message"]
        assert "backtrace" not in answer["error"]["message"]

    asked = [refused(name, value, index % 2 == 1) for index, (name, value) in enumerate(BAD)]
    (_, beside), *_ = await asyncio.gather(model_client.post("/v1/completions", neighbour), *asked)
    assert beside["choices"][0]["token_ids"] == alone["choices"][0]["token_ids"]
    # A good one after bad ones.
    texts = await answers(model_client, {"guided_choice": ["x"], "n": 1}, chat=False, stream=False)
    assert texts == [("x", "stop")]


SUITE = Path(__file__).parents[1] / "structured" / "json_schema_suite.jsonl"


async def check_suite(client: Client, step: int) -> None:
    """Each `step`-th schema of the JSON Schema Test Suite: an answer that it allows, or a 400."""
    groups = [json.loads(line) for line in SUITE.read_text().splitlines()][::step]

    async def ask(group: Any) -> str:
        body = {"prompt": "JSON: ", "max_tokens": 40, "temperature": 1.0, "seed": 1, "guided_json": group["schema"]}
        status, answer = await client.post("/v1/completions", body)
        if status == 400:
            assert answer["error"]["param"] == "guided_json"
            return "refused"
        assert status == 200, answer
        (choice,) = answer["choices"]
        if choice["finish_reason"] == "stop":
            jsonschema.Draft202012Validator(group["schema"]).validate(json.loads(choice["text"]))
        return str(choice["finish_reason"])

    reasons = await asyncio.gather(*map(ask, groups))
    # Where a schema allows anything, small models seldom come to an end.
    assert reasons.count("stop") > len(groups) / 25
    assert reasons.count("refused") > len(groups) / 4


async def test_schemas_of_the_suite(model_client: Client) -> None:
    await check_suite(model_client, 12)


@pytest.mark.sweep
async def test_all_schemas_of_the_suite(model_client: Client) -> None:
    await check_suite(model_client, 1)


async def test_contradictions_name_both(model_client: Client) -> None:
    body: dict[str, Any] = {"prompt": "a", "guided_regex": "a", "response_format": {"type": "json_object"}}
    status, answer = await model_client.post("/v1/completions", body)
    assert status == 400
    assert "response_format" in answer["error"]["message"]
    assert "guided_regex" in answer["error"]["message"]
    body = {"prompt": "a", "guided_regex": "a", "response_format": {"type": "text"}, "max_tokens": 4}
    assert (await model_client.post("/v1/completions", body))[0] == 200


async def test_a_structure_beside_logprobs_penalties_and_stop(model_client: Client) -> None:
    body = {
        "guided_regex": "[a-z]{3}( [a-z]{3}){4}",
        "n": 1,
        "max_tokens": 40,
        "temperature": 0.8,
        "seed": 1,
        "logprobs": 2,
        "frequency_penalty": 1.0,
        "top_k": 20,
        "min_tokens": 3,
        "ignore_eos": True,
    }
    ((text, reason),) = await answers(model_client, body, chat=False, stream=False)
    assert reason == "stop"
    assert re.fullmatch("[a-z]{3}( [a-z]{3}){4}", text)
    ((cut, reason),) = await answers(model_client, {**body, "stop": [" "], "min_tokens": 0}, chat=False, stream=False)
    assert (cut, reason) == (text[:3], "stop")


async def test_a_flood_of_grammars_leaves_the_server_serving(model_client: Client) -> None:
    async def ask(number: int) -> int:
        body = {"prompt": "a", "max_tokens": 1, "guided_regex": f"a{{{number}}}b"}
        return (await model_client.post("/v1/completions", body))[0]

    began = time.monotonic()
    statuses = await asyncio.gather(*(ask(number) for number in range(200)))
    assert set(statuses) == {200}
    assert time.monotonic() - began < 30


async def test_an_aborted_compilation_is_no_harm(model_client: Client, model_server: ServerProcess) -> None:
    schema = {"type": "object", "properties": {f"p{number}": PERSON for number in range(500)}}
    async with connect(model_server.url) as session:
        body = {"prompt": "a", "max_tokens": 5, "guided_json": schema}
        task = asyncio.create_task(Client(session).post("/v1/completions", body))
        await asyncio.sleep(0)
        task.cancel()
    await model_client.still_serves()
