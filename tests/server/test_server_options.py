"""What the server's flags change: CORS, TLS, ids in headers, silent streams, and what answers carry."""

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from server_process import Client, ServerProcess, connect, events_of

MESSAGES = [{"role": "user", "content": "Hi"}]
PAGE = "https://page.example"
OPTIONS = {
    "api_keys": ["key"],
    "allowed_origins": [PAGE],
    "allowed_methods": ["GET", "POST"],
    "allowed_headers": ["Authorization", "Content-Type"],
    "allow_credentials": True,
    "enable_request_id_headers": True,
    "sse_keep_alive_interval": 0.05,
    "response_role": "robot",
    "return_tokens_as_token_ids": True,
    "enable_force_include_usage": True,
    "enable_per_request_metrics": True,
    "max_body_bytes": 5000,
}


@pytest.fixture(scope="module")
def changed_server() -> Iterator[ServerProcess]:
    with ServerProcess({"null_step_seconds": 0.02}, OPTIONS) as server:
        yield server


@pytest_asyncio.fixture
async def changed(changed_server: ServerProcess) -> AsyncIterator[Client]:
    async with connect(changed_server.url, headers={"Authorization": "Bearer key"}) as session:
        yield Client(session)


def allowed(response: aiohttp.ClientResponse) -> dict[str, str]:
    prefix = "Access-Control-Allow-"
    return {name.removeprefix(prefix): value for name, value in response.headers.items() if name.startswith(prefix)}


ASK = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


async def test_a_page_of_an_allowed_origin_may_use_the_server(changed_server: ServerProcess, changed: Client) -> None:
    async with connect(changed_server.url) as session, session.options("/v1/completions", headers=ASK) as response:
        assert response.status == 200  # without a key: browsers send none here
        assert allowed(response) == {
            "Origin": PAGE,
            "Credentials": "true",
            "Methods": "GET, POST",
            "Headers": "content-type",
        }
        assert response.headers["Vary"] == "Origin"
    for path, status in (("/v1/models", 200), ("/nothing", 404)):
        async with changed.session.get(path, headers={"Origin": PAGE}) as response:
            assert response.status == status
            assert allowed(response) == {"Origin": PAGE, "Credentials": "true"}
    body = {"prompt": "Hi", "max_tokens": 2, "stream": True}
    async with changed.session.post("/v1/completions", json=body, headers={"Origin": PAGE}) as response:
        assert allowed(response)["Origin"] == PAGE
    async with connect(changed_server.url) as session, session.get("/v1/models", headers={"Origin": PAGE}) as response:
        assert response.status == 401
        assert allowed(response)["Origin"] == PAGE


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Origin": "https://other.example"}, "origin"),
        ({"Origin": PAGE + ".evil"}, "origin"),
        ({"Origin": "null"}, "origin"),
        ({"Access-Control-Request-Method": "DELETE"}, "method"),
        ({"Access-Control-Request-Headers": "x-other"}, "headers"),
    ],
)
async def test_other_pages_may_not(changed: Client, headers: dict[str, str], reason: str) -> None:
    async with changed.session.options("/v1/completions", headers={**ASK, **headers}) as response:
        assert response.status == 400
        assert await response.text() == f"Disallowed CORS {reason}"
        assert ("Origin" in allowed(response)) == (reason != "origin")


async def test_without_the_flag_no_page_may(client: Client) -> None:
    async with client.session.options("/v1/completions", headers=ASK) as response:
        assert response.status == 405
        assert allowed(response) == {}
    async with client.session.get("/v1/models", headers={"Origin": PAGE}) as response:
        assert allowed(response) == {}


async def test_every_answer_says_its_request_id(changed: Client) -> None:
    async with changed.session.get("/health", headers={"X-Request-Id": "mine"}) as response:
        assert response.headers["X-Request-Id"] == "mine"
    for fields in ({}, {"stream": True}):
        body = {"prompt": "Hi", "max_tokens": 1, **fields}
        async with changed.session.post("/v1/completions", json=body) as response:
            assert f"cmpl-{response.headers['X-Request-Id']}" in await response.text()
    async with changed.session.post("/v1/completions", json={"prompt": "Hi", "request_id": "a\r\nb: c"}) as response:
        assert response.status == 200
        assert response.headers["X-Request-Id"].isalnum()
    async with changed.session.post("/v1/completions", json={"nothing": 1}) as response:
        assert (response.status, len(response.headers["X-Request-Id"])) == (400, 32)


async def test_a_silent_stream_is_kept_alive(changed: Client) -> None:
    body = {"prompt": "Hi", "max_tokens": 12, "stream_interval": 6, "stream": True}
    async with changed.session.post("/v1/completions", json=body) as response:
        text = await response.text()
    assert ": keep-alive\n\n" in text
    *_, usage = events_of(text.replace(": keep-alive\n\n", ""))
    assert usage["usage"]["completion_tokens"] == 12


async def test_what_answers_carry(changed: Client) -> None:
    body = {"messages": MESSAGES, "max_tokens": 4, "logprobs": True, "n": 2}
    status, answer = await changed.post("/v1/chat/completions", body)
    assert status == 200
    assert {choice["message"]["role"] for choice in answer["choices"]} == {"robot"}
    assert answer["choices"][0]["logprobs"]["content"][0]["token"].startswith("token_id:")
    metrics = answer["metrics"]
    assert set(metrics) == {
        "time_to_first_token_ms",
        "generation_time_ms",
        "queue_time_ms",
        "mean_itl_ms",
        "tokens_per_second",
        "speculative_decoding",
    }
    assert metrics["time_to_first_token_ms"] > metrics["queue_time_ms"] >= 0
    assert 15 < metrics["mean_itl_ms"] < 500
    *_, last = events_of(await text_of(changed, {**body, "stream": True, "return_tokens_as_token_ids": False}))
    assert last["usage"]["completion_tokens"] == 8
    assert last["metrics"]["generation_time_ms"] > 0
    _, response = await changed.post("/v1/responses", {"input": "Hello", "max_output_tokens": 4})
    assert set(response["metrics"]) == set(metrics)


async def text_of(client: Client, body: dict[str, object]) -> str:
    async with client.session.post("/v1/chat/completions", json=body) as response:
        return (await response.text()).replace(": keep-alive\n\n", "")


async def test_bodies_have_the_chosen_limit(changed: Client) -> None:
    assert (await changed.post("/tokenize", {"prompt": "x" * 5000}))[0] == 413
    assert (await changed.post("/tokenize", {"prompt": "x" * 4000}))[0] == 200


# ---------------------------------------------------------------- TLS


def make_certificate(folder: Path, name: str) -> tuple[str, str]:
    """(certificate, key), self-signed."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "30"]
    subprocess.run([*words, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return str(certificate), str(key)


async def test_tls(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "server")
    theirs, their_key = make_certificate(tmp_path, "client")
    options = {"ssl_certfile": certificate, "ssl_keyfile": key, "ssl_ca_certs": theirs, "ssl_cert_reqs": 2}
    with ServerProcess(server={**options, "receive_timeout": 1.0, "enable_ssl_refresh": True}) as server:
        assert server.url.startswith("https://")
        host, port = server.url.removeprefix("https://").split(":")
        trust = ssl.create_default_context(cafile=certificate)
        async with connect(server.url, connector=aiohttp.TCPConnector(ssl=trust)) as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get("/health")
        trust.load_cert_chain(theirs, their_key)
        async with connect(server.url, connector=aiohttp.TCPConnector(ssl=trust)) as session:
            await Client(session).still_serves()
            body = {"prompt": "Hi", "max_tokens": 20}
            *_, last = await Client(session).stream("/v1/completions", body)
            assert last["choices"][0]["finish_reason"] == "length"
        # Neither plain HTTP, nor silence, nor an old version of TLS gets anywhere.
        for sent in (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b""):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            async with asyncio.timeout(10):
                assert b"HTTP/1" not in await reader.read()
            writer.close()
        with pytest.warns(DeprecationWarning, match="deprecated"):
            trust.maximum_version = trust.minimum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError, match=r"PROTOCOL|CIPHERS|VERSION"):
            await asyncio.open_connection(host, int(port), ssl=trust)
        # New connections get a new certificate.
        shutil.copyfile(theirs, certificate)
        shutil.copyfile(their_key, key)
        trust = ssl.create_default_context(cafile=theirs)
        trust.load_cert_chain(theirs, their_key)
        async with connect(server.url, connector=aiohttp.TCPConnector(ssl=trust)) as session:
            await Client(session).still_serves()


def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path, "one")
    for options in (
        {"ssl_certfile": "/no/such/file.pem"},
        {"ssl_certfile": certificate},
        {"ssl_certfile": certificate, "ssl_keyfile": certificate},
    ):
        with pytest.raises(AssertionError, match=r"octavo: error: cannot use .* for TLS") as caught:
            ServerProcess(server=options)
        assert "Traceback" not in str(caught.value)


async def test_a_proxys_prefix() -> None:
    with ServerProcess(server={"root_path": "/llm/v2"}) as server:
        async with connect(server.url) as session:
            client = Client(session)
            for path in ("/v1/models", "/llm/v2/v1/models"):
                assert (await client.get(path))[0] == 200
            assert (await client.get("/llm/v1/models"))[0] == 404
            _, document = await client.get("/llm/v2/openapi.json")
            assert document["servers"] == [{"url": "/llm/v2"}]
            assert json.dumps(document).count("/llm/v2") == 1
            status, answer = await client.post("/llm/v2/v1/completions", {"prompt": "Hi", "max_tokens": 1})
            assert (status, answer["usage"]["completion_tokens"]) == (200, 1)
