"""What no client may do to the engine: each case gets a clear error, and the engine serves on."""

import asyncio
import gzip
import json
from typing import Any

import aiohttp
import pytest
from server_process import Client, ServerProcess, connect

MESSAGES = [{"role": "user", "content": "Hi"}]


def check_error(answer: Any, status: int) -> dict[str, Any]:
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["code"] == status
    assert answer["error"]["message"]
    return answer["error"]


COMPLETIONS: list[tuple[dict[str, Any], int, str | None]] = [
    ({"prompt": ""}, 400, "prompt"),
    ({"prompt": []}, 400, "prompt"),
    ({"prompt": [[]]}, 400, "prompt"),
    ({"prompt": [""]}, 400, "prompt"),
    ({"prompt": [1, "a"]}, 400, "prompt"),
    ({"prompt": ["a", 1]}, 400, "prompt"),
    ({"prompt": [True]}, 400, "prompt"),
    ({"prompt": [1.5]}, 400, "prompt"),
    ({"prompt": [-1]}, 400, "prompt"),
    ({"prompt": [49152]}, 400, "prompt"),
    ({"prompt": [2**70]}, 400, "prompt"),
    ({"prompt": ["x"] * 257}, 400, "prompt"),
    ({"prompt": 5}, 400, "prompt"),
    ({"prompt": None}, 400, "prompt"),
    ({}, 400, "prompt"),
    ({"prompt": [5] * 2048}, 400, "prompt"),
    ({"prompt": "word " * 5000}, 400, "prompt"),
    ({"prompt": "Hi", "max_tokens": 5000}, 400, "max_tokens"),
    ({"prompt": "Hi", "max_tokens": 0}, 400, "max_tokens"),
    ({"prompt": "Hi", "max_tokens": -1}, 400, "max_tokens"),
    ({"prompt": "Hi", "temperature": -1}, 400, "temperature"),
    ({"prompt": "Hi", "top_p": 2}, 400, "top_p"),
    ({"prompt": "Hi", "n": 1_000_000}, 400, "n"),
    ({"prompt": ["Hi"] * 100, "n": 100}, 400, "n"),
    ({"prompt": "Hi", "best_of": 1_000_000}, 400, "best_of"),
    ({"prompt": "Hi", "logprobs": 1_000_000_000}, 400, "logprobs"),
    ({"prompt": "Hi", "logprobs": -1}, 400, "logprobs"),
    ({"prompt": "Hi", "prompt_logprobs": 1_000_000_000}, 400, "prompt_logprobs"),
    ({"prompt": "Hi", "prompt_logprobs": -1}, 400, "prompt_logprobs"),
    ({"prompt": "Hi", "logprob_token_ids": [49152]}, 400, "logprob_token_ids"),
    ({"prompt": "Hi", "logprob_token_ids": [5] * 1025}, 400, "logprob_token_ids"),
    ({"prompt": "Hi", "stop": ["x"] * 100_000}, 400, "stop"),
    ({"prompt": "Hi", "stop": "x" * (1 << 20)}, 400, "stop"),
    ({"prompt": "Hi", "stop_token_ids": [49152]}, 400, "stop_token_ids"),
    ({"prompt": "Hi", "logit_bias": {"49152": 1}}, 400, "logit_bias"),
    ({"prompt": "Hi", "allowed_token_ids": []}, 400, "allowed_token_ids"),
    ({"prompt": "Hi", "allowed_token_ids": [5, 49152]}, 400, "allowed_token_ids"),
    ({"prompt": "Hi", "allowed_token_ids": [-1]}, 400, "allowed_token_ids"),
    ({"prompt": "Hi", "bad_words": [""]}, 400, "bad_words"),
    ({"prompt": "Hi", "bad_words": "no"}, 400, "bad_words"),
    ({"prompt": "Hi", "bad_words": ["x"] * 1025}, 400, "bad_words"),
    ({"prompt": "Hi", "bad_words": ["x" * 257]}, 400, "bad_words"),
    ({"prompt": "Hi", "suffix": "x"}, 400, "suffix"),
    ({"prompt": "Hi", "priority": 1}, 400, "priority"),
    ({"prompt": "Hi", "model": "other"}, 404, "model"),
    ({"prompt": "Hi", "model": "\x1b[31m\r\n" + "x" * (1 << 20)}, 404, "model"),
]


@pytest.mark.parametrize(("body", "status", "param"), COMPLETIONS, ids=lambda value: repr(value)[:40])
async def test_completions(client: Client, body: dict[str, Any], status: int, param: str | None) -> None:
    got, answer = await client.post("/v1/completions", body)
    assert got == status, answer
    assert check_error(answer, status)["param"] == param
    assert len(answer["error"]["message"]) < 1000
    got, answer = await client.post("/v1/completions", {**body, "stream": True})
    assert got == status, answer
    await client.still_serves()


CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": [{"content": "Hi"}]}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": [{"role": 5, "content": "Hi"}]}, "messages"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": "Hi", "colour": "red"}]}, "messages"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": "word " * 5000}]}, "prompt"),
    ({"messages": MESSAGES, "chat_template": "{{ 1 }}"}, "chat_template"),
    ({"messages": MESSAGES, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ({"messages": MESSAGES, "chat_template_kwargs": {"add_generation_prompt": False}}, "chat_template_kwargs"),
    ({"messages": MESSAGES, "chat_template_kwargs": {"tools": [1]}}, "chat_template_kwargs"),
    (
        {"messages": MESSAGES, "continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message",
    ),
    ({"messages": MESSAGES, "max_completion_tokens": 5000}, "max_tokens"),
    ({"messages": MESSAGES, "top_logprobs": 5}, "top_logprobs"),
    ({"messages": MESSAGES, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"messages": MESSAGES, "stream_options": {"include_usage": True}}, "stream_options"),
    ({"messages": MESSAGES, "guided_json": {"type": "object"}}, "guided_json"),
    ({"messages": MESSAGES, "extra_body": {"guided_regex": "a+"}}, "guided_regex"),
    ({"messages": MESSAGES, "tools": [{"type": "function", "function": {"name": "f"}}]}, "tool_choice"),
    ({"messages": MESSAGES, "reasoning_effort": "high"}, "reasoning_effort"),
    ({"messages": MESSAGES, "documents": [{"text": "x"}]}, "documents"),
]


@pytest.mark.parametrize(("body", "param"), CHATS, ids=lambda value: repr(value)[:40])
async def test_chat(client: Client, body: dict[str, Any], param: str) -> None:
    got, answer = await client.post("/v1/chat/completions", body)
    assert got == 400, answer
    assert check_error(answer, 400)["param"] == param
    await client.still_serves()


RAW = [
    b"",
    b"{",
    b"[]",
    b"nonsense",
    b'{"prompt": "Hi", "temperature": NaN}',
    b'{"prompt": "Hi", "temperature": 1e999}',
    b'{"prompt": "Hi", "top_p": -Infinity}',
    b'{"prompt": "\xff\xfe"}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"prompt": "Hi", "n": ' + b"9" * 5000 + b"}",
    b'{"prompt": "Hi", "seed": 9223372036854775808}',
]


@pytest.mark.parametrize("data", RAW, ids=lambda data: repr(data[:40]))
async def test_bodies_that_are_no_json(client: Client, data: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        status, answer = await client.post(path, data=data)
        assert status == 400, answer
        check_error(answer, 400)
    await client.still_serves()


async def test_other_routes(client: Client) -> None:
    for path in ("/v1/nothing", "/", "/v1/audio/speech", "/../etc/passwd", "/%00", "/v1/chat/completions/"):
        status, answer = await client.post(path, {})
        assert status == 404
        check_error(answer, 404)
    for body, param in (({"tokens": [-1]}, "tokens"), ({"tokens": [49152]}, "tokens"), ({"tokens": "x"}, "tokens")):
        status, answer = await client.post("/detokenize", body)
        assert (status, check_error(answer, 400)["param"]) == (400, param)
    for body in ({}, {"prompt": "a", "messages": MESSAGES}, {"prompt": "a", "colour": 1}):
        assert (await client.post("/tokenize", body))[0] == 400
    await client.still_serves()


async def test_large_bodies(client: Client) -> None:
    large = json.dumps({"prompt": "x" * 10_000_000}).encode()
    status, answer = await client.post("/v1/completions", data=large)
    assert status == 413
    assert check_error(answer, 413)["type"] == "RequestTooLargeError"

    async def pieces() -> Any:
        for start in range(0, len(large), 1 << 16):
            yield large[start : start + (1 << 16)]

    status, answer = await client.post("/v1/completions", data=pieces())
    assert status == 413
    bomb = gzip.compress(b" " * 200_000_000, compresslevel=1)
    status, answer = await client.post("/v1/completions", data=bomb, headers={"Content-Encoding": "gzip"})
    assert status in (400, 413)
    await client.still_serves()


async def test_a_body_of_hostile_text_stays_off_the_event_loop(client: Client) -> None:
    hostile = asyncio.create_task(client.post("/v1/completions", {"prompt": "a" * 4_000_000}))
    slowest = 0.0
    loop = asyncio.get_running_loop()
    while not hostile.done():
        began = loop.time()
        assert (await client.get("/health"))[0] == 200
        slowest = max(slowest, loop.time() - began)
    assert hostile.result()[0] == 400
    # The two test machines' cores are shared: the bound of 0.1 s is doubled.
    assert slowest < 0.2
    await client.still_serves()


async def test_large_headers(client: Client) -> None:
    async with client.session.get("/health", headers={"X-Large": "x" * 100_000}) as response:
        assert response.status in (400, 431)
        check_error(await response.json(), response.status)
    status, answer = await client.post("/v1/completions", {"prompt": "Hi"}, headers={"X-Request-Id": "x" * 300})
    assert status == 400
    check_error(answer, 400)
    await client.still_serves()


async def test_the_same_request_id_twice(client: Client) -> None:
    body = {"prompt": "Hello", "max_tokens": 50, "request_id": "same"}
    answers = await asyncio.gather(*(client.post("/v1/completions", body) for _ in range(4)))
    assert [status for status, _ in answers] == [200] * 4
    assert {answer["id"] for _, answer in answers} == {"cmpl-same"}
    await client.still_serves()


async def test_half_a_request(client: Client, null_server: ServerProcess) -> None:
    host, port = null_server.url.removeprefix("http://").split(":")
    for head in (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/comp",
        b"\x00\xff\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await reader.read()
    await client.still_serves()


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"GET /%zz\x1b[31m HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=lambda head: repr(head[:30]),
)
async def test_what_is_no_http_gets_our_error(client: Client, null_server: ServerProcess, head: bytes) -> None:
    host, port = null_server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head)
    async with asyncio.timeout(10):
        received = await reader.read()
    writer.close()
    assert received.startswith(b"HTTP/1.")
    assert b"\x1b" not in received
    top, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in top.lower()
    check_error(json.loads(body), 400)
    await client.still_serves()


async def test_a_client_that_sends_too_slowly() -> None:
    with ServerProcess(server={"receive_timeout": 0.5}) as server:
        host, port = server.url.removeprefix("http://").split(":")

        async def answer(sent: bytes, end: bytes = b"") -> bytes:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            async with asyncio.timeout(10):
                received = await (reader.readuntil(end) if end else reader.read())
            writer.close()
            return received

        assert await answer(b"") == b""
        assert await answer(b"POST /v1/comp") == b""
        late = await answer(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b"}}")
        assert late.startswith(b"HTTP/1.1 408 ")
        check_error(json.loads(late.partition(b"\r\n\r\n")[2]), 408)
        async with connect(server.url) as session:
            await Client(session).still_serves()


async def test_neighbours_are_not_disturbed(client: Client, null_server: ServerProcess) -> None:
    golden = (await client.complete(max_tokens=200))["choices"]
    async with connect(null_server.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        other = Client(session)
        neighbours = [asyncio.create_task(other.complete(max_tokens=200)) for _ in range(8)]
        bad = [other.post("/v1/completions", body) for body, _, _ in COMPLETIONS[:30]]
        assert {status for status, _ in await asyncio.gather(*bad)} == {400}
        for neighbour in await asyncio.gather(*neighbours):
            assert neighbour["choices"] == golden
    await client.still_serves()
