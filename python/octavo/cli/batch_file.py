"""OpenAI's batch files: JSON lines of requests in, JSON lines of answers out.

A request is `{"custom_id", "method", "url", "body"}`, an answer `{"id", "custom_id", "response", "error"}`. The format:
https://platform.openai.com/docs/guides/batch
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from octavo.errors import OctavoError

URLS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v2/embed",
        "/score",
        "/v1/score",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/pooling",
        "/classify",
    }
)


class BatchFileError(OctavoError):
    """A file cannot be read, written, or gone on with."""


class LineError(Exception):
    """This line of the input is no request; others may be."""

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.custom_id = custom_id


@dataclass(frozen=True)
class Line:
    """A line of the input. `number` is counted from 1."""

    number: int
    text: bytes


@dataclass(frozen=True)
class BatchRequest:
    custom_id: str
    url: str
    body: dict[str, Any]


def count_lines(path: Path) -> int:
    """Lines that are not blank. Raises BatchFileError."""
    return sum(1 for _ in lines(path))


def lines(path: Path) -> Iterator[Line]:
    """The lines that are not blank. Raises BatchFileError."""
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield Line(number, text)
    except OSError as error:
        raise BatchFileError(f"cannot read {path}: {error.strerror}") from None


def read_request(line: Line) -> BatchRequest:
    """Raises LineError for anything that cannot be sent."""
    try:
        value = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        raise LineError("invalid_json_line", f"line {line.number} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise LineError("invalid_request", f"line {line.number} is no JSON object")
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise LineError("invalid_request", f"line {line.number}: custom_id must be a string")
    url, body = value.get("url"), value.get("body")
    if value.get("method") != "POST":
        raise LineError("invalid_method", "method must be POST", custom_id)
    if url not in URLS:
        raise LineError("invalid_url", f"url must be one of {', '.join(sorted(URLS))}", custom_id)
    if not isinstance(body, dict):
        raise LineError("invalid_request", "body must be an object", custom_id)
    if body.get("stream"):
        raise LineError("invalid_request", "stream: an answer in a file is not streamed", custom_id)
    return BatchRequest(custom_id, url, body)


def custom_id_of(line: Line) -> str | None:
    """The custom id, also of a line that cannot be sent; None where there is none."""
    try:
        return read_request(line).custom_id
    except LineError as error:
        return error.custom_id


class Output:
    """The output file. Each answer is one write, so that whatever happens only the last line can be incomplete."""

    def __init__(self, path: Path) -> None:
        """Opens the file; goes on with one that is there. Raises BatchFileError."""
        self.path = path
        self.done: set[str] = set()
        """The custom ids that have an answer."""
        self.bad_lines: set[int] = set()
        """Lines of the input without a custom id whose error has been told."""
        try:
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._go_on()
        except OSError as error:
            raise BatchFileError(f"cannot write {path}: {error.strerror}") from None

    @property
    def num_answered(self) -> int:
        return len(self.done) + len(self.bad_lines)

    def answered(self, request: BatchRequest, status: int, request_id: str, body: Any) -> None:
        response = {"status_code": status, "request_id": request_id, "body": body}
        self._write(request.custom_id, response, None)

    def failed(self, line: Line, error: LineError) -> None:
        """Tells of a line that was not sent."""
        told = {"code": error.code, "message": error.message, "line": line.number}
        self._write(error.custom_id, None, told)
        if error.custom_id is None:
            self.bad_lines.add(line.number)

    def _write(self, custom_id: str | None, response: Any, error: Any) -> None:
        answer = {"id": f"batch_req_{uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}
        data = json.dumps(answer, ensure_ascii=False).encode() + b"\n"
        try:
            self._file.write(data)
        except OSError as failure:
            raise BatchFileError(f"cannot write {self.path}: {failure.strerror}") from None
        if custom_id is not None:
            self.done.add(custom_id)

    def _go_on(self) -> None:
        """Notes what is answered, and cuts off half a line at the end: what was being written when a run was killed."""
        whole = 0
        with self.path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if not text.endswith(b"\n"):
                    break
                self._note(number, text)
                whole += len(text)
        self._file.truncate(whole)
        self._file.seek(whole)

    def _note(self, number: int, text: bytes) -> None:
        try:
            answer = json.loads(text)
            custom_id, error = answer["custom_id"], answer["error"]
            if custom_id is None:
                self.bad_lines.add(int(error["line"]))
            else:
                self.done.add(str(custom_id))
        except (ValueError, TypeError, KeyError):
            why = f"line {number} is no answer of a batch; name another file"
            raise BatchFileError(f"cannot go on with {self.path}: {why}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
