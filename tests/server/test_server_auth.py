"""With keys set, every route asks for one, but those that probes and scrapers call."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from server_process import Client, ServerProcess, connect

KEYS = ["first-key", "second-kéy"]


@pytest.fixture(scope="module")
def locked_server() -> Iterator[ServerProcess]:
    with ServerProcess(server={"api_keys": KEYS, "served_model_names": ["one", "two"]}) as server:
        yield server


@pytest_asyncio.fixture
async def locked(locked_server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(locked_server.url) as session:
        yield Client(session)


async def test_probes_and_metrics_are_open(locked: Client) -> None:
    for path in ("/health", "/ping", "/metrics"):
        assert (await locked.get(path))[0] == 200


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic first-key", "first-key", "Bearer first-key2"]
)
async def test_everything_else_is_closed(locked: Client, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for path in (
        "/v1/models",
        "/version",
        "/v1/completions",
        "/tokenize",
        "/nothing",
        "/v1/chat/completions",
        "/health/",
    ):
        async with locked.session.get(path, headers=headers) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            error = (await response.json())["error"]
            assert (error["type"], error["code"]) == ("AuthenticationError", 401)


async def test_each_key_opens(locked: Client) -> None:
    for key in KEYS:
        header = b"Bearer " + key.encode()
        headers = {"Authorization": header.decode("utf-8", "surrogateescape")}
        assert (await locked.get("/v1/models", headers=headers))[0] == 200
    headers = {"Authorization": "bearer first-key"}
    assert (await locked.get("/nothing", headers=headers))[0] == 404


async def test_several_names(locked: Client) -> None:
    headers = {"Authorization": "Bearer first-key"}
    _, models = await locked.get("/v1/models", headers=headers)
    assert [card["id"] for card in models["data"]] == ["one", "two"]
    for name, answered in (("one", "one"), ("two", "two"), (None, "one")):
        body = {"prompt": "Hi", "max_tokens": 1, "model": name}
        _, answer = await locked.post("/v1/completions", body, headers=headers)
        assert answer["model"] == answered
