"""An engine that dies in the middle of a stream: each API says so in its own way, and goes on afterwards."""

import asyncio
import os
import signal

import msgspec
from server_process import LONG_CONTEXT, Client, ServerProcess, connect, until


async def last_event(client: Client, path: str, body: dict[str, object], begun: asyncio.Event) -> dict[str, object]:
    """The last event of a stream; `begun` is set at its first."""
    async with client.session.post(path, json={**body, "stream": True}) as response:
        text = await response.content.readline()
        begun.set()
        text += await response.content.read()
    name, data = text.decode().removesuffix("\n\n").rpartition("\n\n")[2].split("\n")
    event: dict[str, object] = msgspec.json.decode(data.removeprefix("data: "))
    assert name == f"event: {event['type']}"
    return event


async def test_each_stream_says_that_its_engine_died() -> None:
    said = [{"role": "user", "content": "Count."}]
    response = {"input": said, "max_output_tokens": 190_000, "ignore_eos": True}
    message = {"messages": said, "max_tokens": 190_000}
    with ServerProcess(LONG_CONTEXT) as server:
        async with connect(server.url) as session:
            client = Client(session)
            begun = [asyncio.Event(), asyncio.Event()]
            async with asyncio.TaskGroup() as group:
                failed = group.create_task(last_event(client, "/v1/responses", response, begun[0]))
                broken = group.create_task(last_event(client, "/v1/messages", message, begun[1]))
                for each in begun:
                    await each.wait()
                os.kill(server.engine_pid, signal.SIGKILL)
            assert failed.result()["type"] == "response.failed"
            answer = failed.result()["response"]
            assert isinstance(answer, dict)
            assert (answer["status"], answer["error"]["code"]) == ("failed", "server_error")
            assert "engine has died" in answer["error"]["message"]
            [item] = answer["output"]
            assert (item["type"], item["status"]) == ("message", "incomplete")
            assert item["content"][0]["text"]
            error = broken.result()["error"]
            assert isinstance(error, dict)
            assert (broken.result()["type"], error["type"]) == ("error", "overloaded_error")
            assert "engine has died" in error["message"]

            async def serves() -> bool:
                return (await client.get("/health"))[0] == 200

            await until(serves)
            status, _ = await client.post("/v1/messages", {"messages": said, "max_tokens": 2})
            assert status == 200
