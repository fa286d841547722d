"""Models that mark reasoning by tokens: SmolLM2 whose tokenizer calls some unused tokens by the names they need."""

import json
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from server_process import MODEL, Client, ServerProcess, connect
from test_structured_outputs import check_every_way

from octavo.config import EngineConfig, ModelConfig
from octavo.engine.start import open_model

MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>")
MARKERS += ("<|call|>", "<|constrain|>")
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
MAY_THINK = TURNS + "<|im_start|>assistant\n{# <think> #}"
THINKS = TURNS + (
    "<|im_start|>assistant\n<think>\n{% if enable_thinking is false %}\n</think>\n\n{% endif %}{# <tool_call> #}"
)
CHANNELS = TURNS + "<|start|>assistant{# <|channel|><|message|> #}"
ZONE = {"type": "object", "properties": {"zone": {"enum": [1, 2]}}, "required": ["zone"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "get_time", "parameters": ZONE}}]
FORMAT = {"type": "json_schema", "json_schema": {"name": "zone", "schema": ZONE}}


def tokenizer_folder(folder: Path, template: str) -> str:
    tokenizer = open_model(EngineConfig(model=ModelConfig(model=MODEL))).tokenizer()
    text = tokenizer.to_json()
    unused = [token["content"] for token in json.loads(text)["added_tokens"][3:]]
    for old, new in zip(unused, MARKERS, strict=False):
        text = text.replace(json.dumps(old), json.dumps(new))
    (folder / "tokenizer.json").write_text(text)
    config = {"chat_template": template, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder)


def serve(folder: Path, template: str, **options: Any) -> ServerProcess:
    model = {"model": MODEL, "max_model_len": 512, "tokenizer": tokenizer_folder(folder, template)}
    return ServerProcess({"backend": "model", "model": model}, options)


@pytest.fixture(scope="module")
def thinking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serve(
        tmp_path_factory.mktemp("thinks"), THINKS, reasoning_parser="auto", trust_request_chat_template=True
    ) as server:
        yield server


@pytest.fixture(scope="module")
def channel_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serve(tmp_path_factory.mktemp("channels"), CHANNELS) as server:
        yield server


@pytest_asyncio.fixture
async def thinking(thinking_server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(thinking_server.url) as session:
        yield Client(session)


@pytest_asyncio.fixture
async def channels(channel_server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(channel_server.url) as session:
        yield Client(session)


async def ask(client: Client, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(choice, usage) of the whole answer; the streamed one says the same."""
    body = {"messages": [{"role": "user", "content": "What time is it?"}], "max_tokens": 60, "temperature": 0, **fields}
    status, answer = await client.post("/v1/chat/completions", body)
    assert status == 200, answer
    message = answer["choices"][0]["message"]
    said = {"content": "", "reasoning": "", "arguments": ""}
    for event in await client.stream("/v1/chat/completions", body):
        for choice in event["choices"]:
            for name in ("content", "reasoning"):
                said[name] += choice["delta"].get(name) or ""
            for call in choice["delta"].get("tool_calls", []):
                said["arguments"] += call["function"]["arguments"]
    assert said["content"] == (message["content"] or "")
    assert said["reasoning"] == (message["reasoning"] or "")
    assert said["arguments"] == "".join(call["function"]["arguments"] for call in message["tool_calls"])
    return answer["choices"][0], answer["usage"]


async def test_a_budget_ends_the_reasoning(thinking: Client) -> None:
    choice, usage = await ask(thinking, thinking_token_budget=6, max_tokens=12)
    assert choice["message"]["reasoning"]
    assert choice["message"]["content"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 7  # six, and the token that ends it
    # The same where the end of the reasoning comes together with what follows it.
    _, usage = await ask(thinking, thinking_token_budget=6, max_tokens=12, stream_interval=12)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 7


async def test_a_structure_begins_behind_the_reasoning(thinking: Client) -> None:
    choice, _ = await ask(thinking, thinking_token_budget=6, response_format=FORMAT)
    assert choice["message"]["reasoning"]
    assert json.loads(choice["message"]["content"])["zone"] in (1, 2)


@pytest.mark.parametrize(("chat", "stream"), list(product((True, False), (True, False))))
async def test_every_structure_holds_where_the_model_reasons(thinking: Client, chat: bool, stream: bool) -> None:
    # A completion has no reasoning: its structure begins with the first token.
    budget = {"thinking_token_budget": 4, "max_tokens": 60} if chat else {}
    await check_every_way(thinking, chat=chat, stream=stream, **budget)


async def test_a_forced_call_comes_behind_the_reasoning(thinking: Client) -> None:
    choice, _ = await ask(
        thinking, thinking_token_budget=6, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
    )
    assert choice["message"]["reasoning"]
    [call] = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["zone"] in (1, 2)
    assert choice["finish_reason"] == "tool_calls"


async def test_a_structure_where_the_model_may_reason_or_not(thinking: Client) -> None:
    body = {"chat_template": MAY_THINK, "response_format": FORMAT, "return_token_ids": True}
    choice, _ = await ask(thinking, **body)
    assert json.loads(choice["message"]["content"])["zone"] in (1, 2)
    _, answer = await thinking.post("/tokenize", {"prompt": "<think></think>"})
    start, end = answer["tokens"]
    choice, _ = await ask(thinking, **body, logit_bias={str(start): 100.0, str(end): 10.0})
    assert start not in choice["token_ids"][1:]
    assert choice["token_ids"][0] == start
    assert end in choice["token_ids"]
    assert json.loads(choice["message"]["content"])["zone"] in (1, 2)


async def test_no_thinking_is_no_reasoning(thinking: Client) -> None:
    choice, usage = await ask(thinking, chat_template_kwargs={"enable_thinking": False}, response_format=FORMAT)
    assert choice["message"]["reasoning"] is None
    assert json.loads(choice["message"]["content"])["zone"] in (1, 2)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
    choice, _ = await ask(thinking, reasoning_effort="none", max_tokens=4)
    assert choice["message"]["reasoning"] is None


async def test_calls_marked_by_special_tokens(thinking: Client) -> None:
    grammar = "start: <tool_call> CALL </tool_call>\n" + r'CALL: /\{"name": "get_time", "arguments": \{"zone": 1\}\}/'
    choice, _ = await ask(thinking, thinking_token_budget=2, tools=TOOLS, guided_grammar=grammar)
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["get_time"]
    assert choice["finish_reason"] == "tool_calls"


async def test_channels_carry_forced_calls_and_structures(channels: Client) -> None:
    named = {"type": "function", "function": {"name": "get_time"}}
    for choice in (named, "required"):
        answer, _ = await ask(channels, tools=TOOLS, tool_choice=choice)
        [call] = answer["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"])["zone"] in (1, 2)
        assert answer["message"]["content"] is None
    answer, _ = await ask(channels, response_format=FORMAT, max_tokens=400)
    if answer["finish_reason"] == "stop":
        assert json.loads(answer["message"]["content"])["zone"] in (1, 2)
    else:
        assert answer["message"]["reasoning"]


async def test_what_channels_cannot_do_is_refused(channels: Client) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    for fields in ({"guided_grammar": 'start: "x" start?'}, {"thinking_token_budget": 4}):
        status, answer = await channels.post("/v1/chat/completions", {**body, **fields})
        assert (status, answer["error"]["param"]) == (400, next(iter(fields)))
