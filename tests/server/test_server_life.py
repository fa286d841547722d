"""Start, drain, stop, and an engine that dies: no request is left hanging, no process is left behind."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from server_process import LONG, LONG_CONTEXT, Client, ServerProcess, alive, connect, until

STREAM = {**LONG, "stream": True}


async def test_sigterm_lets_streams_finish() -> None:
    server = ServerProcess(LONG_CONTEXT)
    engine = server.engine_pid
    async with connect(server.url) as session:
        client = Client(session)
        response = await session.post("/v1/completions", json={**STREAM, "max_tokens": 10_000})
        await response.content.readline()
        server.signal(signal.SIGTERM)

        async def draining() -> bool:
            return (await client.get("/health"))[0] == 503

        await until(draining)
        async with session.post("/v1/completions", json=STREAM) as refused:
            assert refused.status == 503
            assert "shutting down" in (await refused.json())["error"]["message"]
            assert "Retry-After" in refused.headers
        text = await response.text()
        assert '"finish_reason":"length"' in text
        assert text.endswith("data: [DONE]\n\n")
    code, _, errors = server.wait()
    assert (code, errors) == (0, "")
    assert not alive(engine)


async def test_the_drain_has_an_end() -> None:
    server = ServerProcess(LONG_CONTEXT, {"shutdown_timeout": 0.1})
    async with connect(server.url) as session:
        response = await session.post("/v1/completions", json={**STREAM, "n": 8})
        await response.content.readline()
        server.signal(signal.SIGINT)
        text = await response.text()
        assert '"finish_reason":"abort"' in text
        assert text.endswith("data: [DONE]\n\n")
    assert server.wait()[0] == 0


async def test_a_second_signal_ends_at_once() -> None:
    server = ServerProcess(LONG_CONTEXT)
    engine = server.engine_pid
    async with connect(server.url) as session:
        response = await session.post("/v1/completions", json={**STREAM, "n": 8})
        await response.content.readline()
        server.signal(signal.SIGTERM)

        async def draining() -> bool:
            return (await Client(session).get("/health"))[0] == 503

        await until(draining)
        server.signal(signal.SIGTERM)
        with pytest.raises(aiohttp.ClientError):
            await response.text()
    assert server.wait()[0] == 1
    assert not alive(engine)


def test_an_idle_server_ends_with_0_and_quietly() -> None:
    server = ServerProcess()
    engine = server.engine_pid
    server.signal(signal.SIGTERM)
    assert server.wait() == (0, "", "")
    assert not alive(engine)


def test_the_ready_line_is_one_line() -> None:
    with ServerProcess(server={"served_model_names": ["small"]}) as server:
        (line,) = server.lines
        assert line.startswith("octavo ")
        assert f" serves small at {server.url} (ready in " in line


def test_a_port_in_use_is_one_line(null_server: ServerProcess) -> None:
    port = int(null_server.url.rpartition(":")[2])
    with pytest.raises(AssertionError, match=f"octavo: error: port {port} is in use already") as caught:
        ServerProcess(server={"port": port})
    assert "Traceback" not in str(caught.value)


def test_a_model_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(AssertionError, match="octavo: error: ") as caught:
        ServerProcess({"model": {"model": "./no/such/model"}})
    assert "Traceback" not in str(caught.value)


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "octavo.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with ServerProcess(server={"uds": str(path)}) as server:
        assert server.url == f"unix:{path}"
        async with connect("http://octavo", connector=aiohttp.UnixConnector(str(path))) as session:
            await Client(session).still_serves()
        with pytest.raises(AssertionError, match="in use already"):
            ServerProcess(server={"uds": str(path)})
    assert not path.exists()


async def test_a_killed_engine_comes_back() -> None:
    with ServerProcess(LONG_CONTEXT) as server:
        engine = server.engine_pid
        async with connect(server.url, connector=aiohttp.TCPConnector(limit=0)) as session:
            client = Client(session)
            golden = (await client.complete())["choices"]
            streams = [await session.post("/v1/completions", json={**STREAM, "n": 2}) for _ in range(8)]
            whole = asyncio.create_task(client.post("/v1/completions", {**LONG, "n": 4}))
            for stream in streams:
                await stream.content.readline()
            os.kill(engine, signal.SIGKILL)
            for stream in streams:
                text = await asyncio.wait_for(stream.text(), 5)
                *_, error, done, _ = text.split("\n\n")
                assert error.startswith('data: {"error":{"message":')
                assert '"code":503' in error
                assert done == "data: [DONE]"
            status, answer = await whole
            assert (status, answer["error"]["code"]) == (503, 503)

            async def back() -> bool:
                return (await client.get("/health"))[0] == 200

            await until(back, 10)
            assert (await client.complete())["choices"] == golden
            assert not alive(engine)
            assert server.engine_pid != engine
            assert (await client.gauge("octavo:engine_restarts_total")) == 1
            await client.still_serves()
            # The counters go on from where they were.
            assert await client.gauge("vllm:generation_tokens_total") > 8


async def test_health_is_503_while_the_engine_is_away() -> None:
    with ServerProcess() as server:
        async with connect(server.url) as session:
            client = Client(session)
            statuses = []

            async def dead() -> bool:
                statuses.append((await client.get("/health"))[0])
                return statuses[-1] == 503

            os.kill(server.engine_pid, signal.SIGKILL)
            await until(dead)
            status, answer = await client.post("/v1/completions", {"prompt": "Hi"})
            assert status in (200, 503), answer

            async def back() -> bool:
                return (await client.get("/health"))[0] == 200

            await until(back)
            await client.still_serves()


async def test_an_engine_that_keeps_dying_ends_the_server() -> None:
    server = ServerProcess()

    async def killed() -> bool:
        if server.process.poll() is not None:
            return True
        try:
            os.kill(server.engine_pid, signal.SIGKILL)
        except (AssertionError, ProcessLookupError):
            return False
        return False

    await until(killed, 40)
    code, _, errors = server.wait()
    assert code == 1
    assert "octavo: error: the engine has died 5 times within 60 s" in errors
    assert "Traceback" not in errors


async def test_a_stuck_engine_is_not_healthy_and_is_replaced() -> None:
    with ServerProcess(server={"stall_timeout": 2.0}) as server:
        engine = server.engine_pid
        async with connect(server.url) as session:
            client = Client(session)
            await client.still_serves()
            os.kill(engine, signal.SIGSTOP)
            waiting: asyncio.Task[Any] = asyncio.create_task(client.post("/v1/completions", {"prompt": "Hi"}))

            async def status(wanted: int) -> bool:
                return (await client.get("/health"))[0] == wanted

            await until(lambda: status(503))
            assert (await waiting)[0] == 503
            await until(lambda: status(200))
            await client.still_serves()
            assert not alive(engine)
        server.signal(signal.SIGTERM)
        assert "the engine has been stuck for" in server.wait()[2]


async def test_an_idle_engine_that_is_stuck_is_replaced() -> None:
    with ServerProcess(server={"stall_timeout": 2.0}) as server:
        engine = server.engine_pid
        async with connect(server.url) as session:
            client = Client(session)
            os.kill(engine, signal.SIGSTOP)

            async def replaced() -> bool:
                return not alive(engine) and (await client.get("/health"))[0] == 200

            await until(replaced, 20)
            await client.still_serves()


async def test_a_server_that_was_stopped_blames_no_engine() -> None:
    with ServerProcess(server={"stall_timeout": 2.0}) as server:
        engine = server.engine_pid
        async with connect(server.url) as session:
            client = Client(session)
            server.signal(signal.SIGSTOP)
            stopped_until = asyncio.get_running_loop().time() + 3.5

            async def late() -> bool:
                return asyncio.get_running_loop().time() > stopped_until

            await until(late)
            server.signal(signal.SIGCONT)
            await client.still_serves()
            assert server.engine_pid == engine
            assert await client.gauge("octavo:engine_restarts_total") == 0


async def test_an_engine_that_was_idle_for_long_is_not_stuck() -> None:
    """It reports once a second that it is there."""
    with ServerProcess({"null_step_seconds": 0.05}, {"stall_timeout": 2.0}) as server:
        engine = server.engine_pid
        async with connect(server.url) as session:
            client = Client(session)
            idle_until = asyncio.get_running_loop().time() + 2.5

            async def idle() -> bool:
                return asyncio.get_running_loop().time() > idle_until

            await until(idle)
            answer = asyncio.create_task(client.complete(max_tokens=10))
            while not answer.done():
                assert (await client.get("/health"))[0] == 200
            assert server.engine_pid == engine


async def test_the_log_escapes_what_clients_send() -> None:
    with ServerProcess(server={"enable_log_requests": True}) as server:
        async with connect(server.url) as session:
            client = Client(session)
            await client.complete(request_id="evil\r\n\x1b[31m", prompt="secret words", user="x" * 5000)
        server.signal(signal.SIGTERM)
        _, _, errors = server.wait()
        assert "evil\\r\\n\\x1b[31m" in errors
        assert "secret" not in errors
        assert "\x1b" not in errors
