"""The servers that tests share: with the null backend, with a long context, and with the real SmolLM2."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from server_process import LONG_CONTEXT, Client, ServerProcess, connect


@pytest.fixture(scope="session")
def null_server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


@pytest.fixture(scope="session")
def long_server() -> Iterator[ServerProcess]:
    with ServerProcess(LONG_CONTEXT) as server:
        yield server


@pytest.fixture(scope="session")
def model_server() -> Iterator[ServerProcess]:
    with ServerProcess({"backend": "model"}, {"enable_responses_store": True}) as server:
        yield server


@pytest_asyncio.fixture
async def client(null_server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(null_server.url) as session:
        yield Client(session)


@pytest_asyncio.fixture
async def long_client(long_server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(long_server.url) as session:
        yield Client(session)


@pytest_asyncio.fixture
async def model_client(model_server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(model_server.url) as session:
        yield Client(session)
