"""With keys set, every route asks for one, but those that probes and scrapers call."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from server_process import Client, ServerProcess, connect

from octavo.server.admin import ADMIN_ROUTES
from octavo.server.errors import ErrorShape
from octavo.server.route import Access, Route
from octavo.server.routes import DOCUMENT_ROUTES, ROUTES

KEYS = ["first-key", "second-kéy"]
ADMIN_KEY = "admin-key"
OPTIONS = {"api_keys": KEYS, "served_model_names": ["one", "two"], "root_path": "/llm"}


@pytest.fixture(scope="module")
def locked_server() -> Iterator[ServerProcess]:
    with ServerProcess(server={**OPTIONS, "admin_api_keys": [ADMIN_KEY]}) as server:
        yield server


@pytest_asyncio.fixture
async def locked(locked_server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(locked_server.url) as session:
        yield Client(session)


async def test_probes_and_metrics_are_open(locked: Client) -> None:
    for path in ("/health", "/ping", "/metrics", "/llm/health"):
        assert (await locked.get(path))[0] == 200


@pytest.mark.parametrize("prefix", ["", "/llm"])
@pytest.mark.parametrize(
    "route", [*ROUTES, *ADMIN_ROUTES, *DOCUMENT_ROUTES], ids=lambda route: f"{route.method} {route.path}"
)
async def test_each_route_asks_for_its_key(locked: Client, route: Route, prefix: str) -> None:
    right = {Access.KEY: "first-key", Access.ADMIN: ADMIN_KEY}.get(route.access)
    if right is None:
        assert route.path in ("/health", "/ping", "/metrics")
        return
    path = prefix + route.path.replace("{name:.+}", "one").replace("{", "").replace("}", "")
    wrong = [{}, {"Authorization": "Bearer wrong"}, {"x-api-key": "wrong"}, {"x-api-key": ""}]
    if route.access is Access.ADMIN:
        wrong += [{"Authorization": "Bearer first-key"}, {"x-api-key": "first-key"}]
    for headers in wrong:
        async with locked.session.request(route.method, path, headers=headers) as response:
            assert response.status == 401, headers
            error = await response.json()
        if route.errors is ErrorShape.ANTHROPIC:
            assert (error["type"], error["error"]["type"]) == ("error", "authentication_error")
        else:
            assert (error["error"]["type"], error["error"]["code"]) == ("AuthenticationError", 401)
    for headers in ({"Authorization": f"Bearer {right}"}, {"x-api-key": right}):
        async with locked.session.request("HEAD", path, headers=headers) as response:
            if route.path.endswith(("{response_id}", "/input_items")):
                assert response.status == 404, path
            else:
                assert response.status == (200 if route.method == "GET" else 405), path


TARGETS = [
    b"GET /v1/models HTTP/1.1\r\nHost: a/?",
    b"GET /v1/models HTTP/1.1\r\nHost: x/health?",
    b"GET /v1/models HTTP/1.1\r\nHost: x/health#",
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Forwarded-Path: /health\r\nX-Original-URL: /health",
    b"GET //health/../v1/models HTTP/1.1\r\nHost: x",
    b"GET /health/../v1/models HTTP/1.1\r\nHost: x",
    b"GET /health/%2e%2e/v1/models HTTP/1.1\r\nHost: x",
    b"GET //health HTTP/1.1\r\nHost: x",
    b"GET /v1%2Fmodels HTTP/1.1\r\nHost: x",
    b"GET /v1/models?/health HTTP/1.1\r\nHost: x",
    b"GET /v1/models;/health HTTP/1.1\r\nHost: x",
    b"GET http://x/v1/models HTTP/1.1\r\nHost: x/health",
    b"GET x/health/../../v1/models HTTP/1.1\r\nHost: x",
    b"OPTIONS * HTTP/1.1\r\nHost: x",
    b"POST /health HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: GET",
]


@pytest.mark.parametrize("head", TARGETS, ids=lambda head: head.partition(b" HTTP")[0].decode())
async def test_no_way_of_writing_a_path_opens_another(locked_server: ServerProcess, head: bytes) -> None:
    host, port = locked_server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head + b"\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.split(b" ")[1] in (b"400", b"401"), answer
    assert b'{"error":{"message"' in answer
    assert b"max_model_len" not in answer


async def test_metrics_can_be_closed_and_admin_routes_are_absent_without_a_key() -> None:
    options = {**OPTIONS, "protect_metrics": True, "disable_fastapi_docs": True}
    with ServerProcess(server=options) as server:
        async with connect(server.url) as session:
            client = Client(session)
            assert (await client.get("/metrics"))[0] == 401
            assert (await client.get("/metrics", headers={"x-api-key": "first-key"}))[0] == 200
            for route in (*DOCUMENT_ROUTES, *ADMIN_ROUTES):
                async with session.request(route.method, route.path, headers={"x-api-key": "first-key"}) as answer:
                    assert answer.status == 404


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
