"""Two servers as a user starts them, one that chats and one that embeds; and other people's clients.

`make test` makes the clients' environments from clients/*.txt, beside the one that the tests run in.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compat_servers import CHAT_MODEL, EMBEDDING_MODEL, READY_SECONDS

from octavo.cli.child import running_server

LIMIT_SECONDS = 180
CLIENTS = Path(__file__).parent / "clients"

RunClient = Callable[..., str]


@pytest.fixture(scope="session")
def chat_server() -> Iterator[str]:
    """The URL of a server that chats, calls tools, and follows schemas, without /v1."""
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    with running_server(CHAT_MODEL, *flags, ready_within=READY_SECONDS) as running:
        yield running.address
        assert running.process.poll() is None, "the server ended during the tests"
        assert running.stop() == 0


@pytest.fixture(scope="session")
def embedding_server() -> Iterator[str]:
    with running_server(EMBEDDING_MODEL, ready_within=READY_SECONDS) as running:
        yield running.address
        assert running.stop() == 0


@pytest.fixture
def run_node() -> Callable[..., str]:
    """Runs a script of tests/e2e/node; returns what it printed."""
    folder = CLIENTS.parents[1] / "e2e" / "node"

    def run(name: str, *arguments: str) -> str:
        node = shutil.which("node")
        if node is None or not (folder / "node_modules" / "openai").is_dir():
            missing("Node.js or its OpenAI SDK is missing: install Node.js 20 with npm, then run `make test`")
        done = subprocess.run(
            [str(node), folder / name, *arguments], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def missing(reason: str) -> None:
    """Skips the test, but never in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def run_client() -> RunClient:
    """Runs clients/NAME.py in an environment with arguments; returns what it printed."""

    def run(environment: str, name: str, *arguments: str) -> str:
        python = Path(sys.prefix) / "compat" / environment / "bin" / "python"
        if not python.is_file():
            missing(f"{python} is missing: run `make test`, which installs the clients")
        done = subprocess.run(
            [python, CLIENTS / f"{name}.py", *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
            # A client may look for keys and settings of the person who runs the tests.
            env={"PATH": os.environ["PATH"], "HOME": str(python.parent)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
