"""What crosses the wire: recorded requests with their answers, field by field. wire/ROUTE.json has a list of examples.

An example is {"server", "method", "path", "headers", "body"} with {"status", "answer"} or, for a stream, {"events"}.
What differs from run to run is replaced by a placeholder on both sides (`settled`): ids, times, measured numbers.
`python tests/compat/record.py` records the answers anew; the difference is to be read before it is committed.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

FOLDER = Path(__file__).with_name("wire")
MODEL_NAME = "wire"
ADMIN_KEY = "recorded"
CHAT_FLAGS = [
    *("--served-model-name", MODEL_NAME, "--max-model-len", "2048"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--admin-api-key", ADMIN_KEY),
]
EMBEDDING_FLAGS = ["--served-model-name", MODEL_NAME]

IDS = frozenset({"id", "item_id", "response_id", "request_id", "call_id", "message_id", "tool_call_id"})
TIMES = frozenset({"created", "created_at", "completed_at"})
NUMBERS = frozenset({"logprob", "token_logprobs", "top_logprobs", "embedding", "data", "score", "relevance_score"})
"""Fields with numbers that differ a little from processor to processor: their shape is kept."""

TEXTS = frozenset(
    {"content", "text", "reasoning", "reasoning_content", "arguments", "delta", "partial_json", "thinking"}
)
CHUNKS = ("chat.completion.chunk", "text_completion")

Example = dict[str, Any]


def examples() -> list[Example]:
    """Every recorded example, with its `name`."""
    found = []
    for file in sorted(FOLDER.glob("*.json")):
        for index, example in enumerate(json.loads(file.read_text())):
            found.append({"name": f"{file.stem}-{index}", **example})
    return found


def settled(value: Any, key: str = "") -> Any:
    """`value` without what differs from run to run."""
    match value:
        case int() if key == "sequence_number":
            return "<number>"
        case str() if key in IDS and value:
            return "<id>"
        case bool() | None:
            return value
        case int() | float() if key in TIMES:
            return "<time>"
        case float() if key in NUMBERS:
            return "<number>"
        case str() if key == "embedding":
            return f"<{len(value)} characters>"
        case list() if len(value) > 16 and all(isinstance(item, float) for item in value):
            return f"<{len(value)} numbers>"
        case list():
            return [settled(item, key) for item in value]
        case dict():
            return {name: settled(item, key if key == "top_logprobs" else name) for name, item in value.items()}
    return value


async def ask(session: aiohttp.ClientSession, url: str, example: Example) -> Example:
    """What a server answers: {"status", "answer"} or {"status", "events"}."""
    body = example.get("body")
    data = None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json", **example.get("headers", {})}
    async with session.request(example["method"], url + example["path"], data=data, headers=headers) as response:
        text = await response.text()
        if response.content_type == "text/event-stream":
            events = [event(block) for block in text.split("\n\n") if block]
            return {"status": response.status, "events": joined(events)}
        is_json = response.content_type == "application/json"
        return {"status": response.status, "answer": settled(json.loads(text)) if is_json else response.content_type}


def event(block: str) -> Any:
    """One server-sent event: its data, or {"event", "data"} when it has a name."""
    fields = dict(line.split(": ", 1) for line in block.splitlines())
    data = fields["data"] if fields["data"] == "[DONE]" else settled(json.loads(fields["data"]))
    return {"event": fields["event"], "data": data} if "event" in fields else data


def joined(events: list[Any]) -> list[Any]:
    """`events` with the text of neighbours that differ in nothing else put together.

    How many tokens are in one event is a matter of time: the server sends what is there. The last chunk of a choice has
    text when it was; here it has none.
    """
    result: list[Any] = []
    for one in events:
        for each in apart(one):
            if result and texts(each) and blank(result[-1]) == blank(each):
                result[-1] = together(result[-1], each)
            else:
                result.append(each)
    return result


def apart(one: Any) -> list[Any]:
    """A chunk that ends a choice as one with its text and one without."""
    choice = next(iter(one["choices"]), {}) if isinstance(one, dict) and one.get("object") in CHUNKS else {}
    if not choice.get("finish_reason") or not any(texts(choice)):
        return [one]
    going_on = {name: value for name, value in choice.items() if name != "stop_reason"} | {"finish_reason": None}
    ended = blank(choice)
    if "tool_calls" in ended.get("delta", {}):
        ended["delta"] = {}
    return [{**one, "choices": [going_on]}, {**one, "choices": [ended]}]


def texts(value: Any, key: str = "") -> list[str]:
    """The pieces of text in an event."""
    match value:
        case str() if key in TEXTS:
            return [value]
        case list():
            return [text for item in value for text in texts(item)]
        case dict():
            return [text for name, item in value.items() for text in texts(item, name)]
    return []


def blank(value: Any, key: str = "") -> Any:
    match value:
        case str() if key in TEXTS:
            return ""
        case list():
            return [blank(item) for item in value]
        case dict():
            return {name: blank(item, name) for name, item in value.items()}
    return value


def together(first: Any, second: Any, key: str = "") -> Any:
    match first:
        case str() if key in TEXTS:
            return first + second
        case list():
            return [together(*pair) for pair in zip(first, second, strict=True)]
        case dict():
            return {name: together(item, second[name], name) for name, item in first.items()}
    return second


def ask_all(url_of: dict[str, str], asked: list[Example]) -> list[Example]:
    """The answers to all, one after the other. `url_of`: server → its URL."""

    async def run() -> list[Example]:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            return [await ask(session, url_of[example["server"]], example) for example in asked]

    return asyncio.run(run())
