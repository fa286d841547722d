"""What the terminal needs of an OpenAI server: the first model's name, and streamed answers.

Plain blocking HTTP from the standard library: one request at a time, and Ctrl-C ends it by closing the connection.
"""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from octavo.errors import OctavoError

CONNECT_SECONDS = 10.0


class Client:
    """A server at `address`: a URL (`/v1` may be left out), or the path of a Unix socket."""

    def __init__(self, address: str, api_key: str | None = None) -> None:
        self.address = address
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._path = "/v1"
        if not address.startswith("/"):
            url = urlsplit(address if "://" in address else f"http://{address}")
            if url.scheme not in ("http", "https") or not url.hostname:
                raise OctavoError(f"{address} is not the URL of a server")
            self._url = url
            self._path = url.path.rstrip("/").removesuffix("/v1") + "/v1"

    def healthy(self) -> bool:
        """Whether the server answers and can serve; False while nothing listens."""
        try:
            with closing(self._connect()) as connection:
                connection.request("GET", self._path.removesuffix("/v1") + "/health")
                return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException, OctavoError):
            return False

    def first_model(self) -> str:
        with closing(self._connect()) as connection:
            models = json.loads(self._send(connection, "GET", "/models").read())["data"]
        if not models:
            raise OctavoError(f"{self.address} serves no model")
        return str(models[0]["id"])

    def stream(self, route: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of one streamed answer. OctavoError when the server refuses or breaks off."""
        with closing(self._connect()) as connection:
            response = self._send(connection, "POST", route, {**body, "stream": True})
            for line in response:
                if not line.startswith(b"data:"):
                    continue
                data = line.removeprefix(b"data:").strip()
                if data == b"[DONE]":
                    return
                chunk = json.loads(data)
                if "error" in chunk:
                    raise OctavoError(_message(chunk, "the answer broke off"))
                yield chunk
        raise OctavoError("the server closed the connection in mid-answer")

    def _send(
        self, connection: http.client.HTTPConnection, method: str, route: str, body: dict[str, Any] | None = None
    ) -> http.client.HTTPResponse:
        content = None if body is None else json.dumps(body).encode()
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        try:
            connection.request(method, self._path + route, content, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise OctavoError(f"cannot reach {self.address}: {error}") from None
        if response.status != 200:
            answer = response.read()
            try:
                message = _message(json.loads(answer), response.reason)
            except ValueError:
                message = response.reason
            raise OctavoError(f"{response.status}: {message}")
        return response

    def _connect(self) -> http.client.HTTPConnection:
        if self.address.startswith("/"):
            return _UnixConnection(self.address)
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=CONNECT_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            raise OctavoError(f"cannot reach {self.address}: {error}") from None
        # The first token may take long; only connecting has a limit.
        connection.sock.settimeout(None)
        return connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._socket_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._socket_path)


def _message(answer: Any, otherwise: str) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message or otherwise).split())
