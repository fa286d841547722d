"""The benches' HTTP client, against servers that behave as the measured ones do."""

import asyncio

import pytest

from _streams import Tally, completion_request, stream_all

EVENTS = b'data: {"choices":[{"text":"a"}]}\n\ndata: {"usage":{"completion_tokens":2}}\n\ndata: [DONE]\n\n'


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def run(answer: list[bytes], *, closes: bool, status: bytes = b"200 OK", clients: int = 2) -> Tally:
    """What five requests see of a server that sends `answer`, and perhaps closes the connection after each."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                await reader.readexactly(int(length.split(b":")[1]))
                writer.write(b"HTTP/1.1 " + status + b"\r\nKeep-Alive: timeout=5, max=100\r\n\r\n")
                for part in answer:
                    await writer.drain()
                    writer.write(part)
                if closes:
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        requests = iter([completion_request("127.0.0.1", port, {"prompt": [index]}) for index in range(5)])
        tally, _ = await stream_all("127.0.0.1", port, requests, clients=clients, max_tokens=2)
    return tally


@pytest.mark.parametrize("closes", [False, True])
async def test_every_answer_is_counted_whether_or_not_the_connection_stays(closes: bool) -> None:
    tally = await run([chunk(EVENTS), b"0\r\n\r\n"], closes=closes)
    assert (tally.streams, tally.errors, tally.events) == (5, 0, 15)


async def test_an_answer_with_too_few_tokens_is_an_error() -> None:
    tally = await run([chunk(EVENTS.replace(b":2}", b":1}")), b"0\r\n\r\n"], closes=False)
    assert (tally.streams, tally.errors) == (5, 5)


async def test_a_refusal_is_an_error() -> None:
    tally = await run([], closes=True, status=b"503 Service Unavailable", clients=5)
    assert (tally.streams, tally.errors) == (5, 5)


async def test_an_answer_that_breaks_off_is_an_error() -> None:
    tally = await run([chunk(EVENTS)], closes=True, clients=5)
    assert (tally.streams, tally.errors) == (5, 5)
