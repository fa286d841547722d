"""What happens to an answer when its client goes away, reads nothing, or asks for too much at once."""

import asyncio
import socket
from typing import Any

from server_process import LONG, LONG_CONTEXT, MODEL, Client, ServerProcess, connect, events_of, until

ABORTED = f'vllm:request_success_total{{engine="0",finished_reason="abort",model_name="{MODEL}"}}'


async def test_closing_a_stream_frees_its_request(long_client: Client, long_server: ServerProcess) -> None:
    async with connect(long_server.url) as session:
        response = await session.post("/v1/completions", json={**LONG, "n": 4, "stream": True})
        await response.content.readline()
        assert await long_client.running()
        response.close()
    await long_client.still_serves()


async def test_closing_a_whole_request_frees_it(long_client: Client, long_server: ServerProcess) -> None:
    aborted = (await long_client.metrics())[ABORTED]
    async with connect(long_server.url) as session:
        waiting = asyncio.create_task(Client(session).post("/v1/completions", {**LONG, "n": 8}))
        await until(long_client.running)
        waiting.cancel()
    await long_client.still_serves()
    assert (await long_client.metrics())[ABORTED] == aborted + 8


async def test_a_client_that_reads_nothing_is_cut_off(long_client: Client, long_server: ServerProcess) -> None:
    """8 choices of 190,000 tokens are some 300 MB of events; the server must keep far less."""
    host, port = long_server.url.removeprefix("http://").split(":")
    body = b'{"prompt": "Hello", "max_tokens": 190000, "n": 8, "stream": true}'
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect((host, int(port)))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        stuck.sendall(head + body)
        await until(long_client.running)
        before = (await long_client.metrics())[ABORTED]

        async def cut_off() -> bool:
            return await long_client.running() == 0

        await until(cut_off, 60)
        assert (await long_client.metrics())[ABORTED] == before + 8
        assert (await long_client.metrics())["process_resident_memory_bytes"] < 600e6
    await long_client.still_serves()


async def test_many_streams_at_once(client: Client) -> None:
    golden = (await client.complete(max_tokens=20))["choices"][0]["text"]

    async def one() -> str:
        events = await client.stream("/v1/completions", {"prompt": "Hello", "max_tokens": 20})
        return "".join(event["choices"][0]["text"] for event in events)

    assert set(await asyncio.gather(*(one() for _ in range(100)))) == {golden}
    await client.still_serves()


async def test_logprobs(client: Client) -> None:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 3,
        "logprobs": True,
        "top_logprobs": 2,
    }
    _, whole = await client.post("/v1/chat/completions", body)
    content = whole["choices"][0]["logprobs"]["content"]
    assert len(content) == 3
    for entry in content:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) <= 2
    events = await client.stream("/v1/chat/completions", body)
    parts = [event["choices"][0]["logprobs"] for event in events]
    assert [entry for part in parts if part for entry in part["content"]] == content
    completion = (await client.complete(logprobs=2))["choices"][0]
    arrays = completion["logprobs"]
    assert {len(array) for array in arrays.values()} == {4}
    assert "".join(arrays["tokens"]) == completion["text"]
    assert arrays["text_offset"] == [0, *(len("".join(arrays["tokens"][:n])) for n in (1, 2, 3))]
    ids = (await client.complete(logprobs=0, return_tokens_as_token_ids=True))["choices"][0]["logprobs"]["tokens"]
    assert all(token.startswith("token_id:") for token in ids)


async def test_a_refusal_of_the_engine_is_a_status_not_a_stream() -> None:
    scheduler = {"max_num_seqs": 1, "max_num_queued_reqs": 1}
    with ServerProcess({**LONG_CONTEXT, "scheduler": scheduler}) as server:
        async with connect(server.url) as session:
            client = Client(session)
            tasks = [
                asyncio.create_task(session.post("/v1/completions", json={**LONG, "max_tokens": 5_000, "stream": True}))
                for _ in range(8)
            ]
            responses = await asyncio.gather(*tasks)
            refused = [response for response in responses if response.status == 503]
            served = [response for response in responses if response.status == 200]
            assert refused
            assert served
            assert all(response.headers["Retry-After"].isdigit() for response in refused)
            assert (await refused[0].json())["error"]["type"] == "ServiceUnavailableError"
            for response in served:
                assert events_of(await response.text())[-1]["choices"][0]["finish_reason"] == "length"
            await client.still_serves()
            rejected = await client.gauge("vllm:admission_rejections_total")
            assert rejected == len(refused)
