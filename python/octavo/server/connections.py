"""The server's open connections: whether any request is in progress, and clients that take too long to send one."""

import asyncio
import logging
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from octavo.server.errors import ApiError, printable


class Connection(RequestHandler):
    """aiohttp's connection, whose own answers (to what is no HTTP) have our error body."""

    __slots__ = ()

    def __init__(self, server: web.Server, **options: Any) -> None:
        super().__init__(server, access_log=cast(logging.Logger, None), **options)  # None is no log, says aiohttp

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Raises ConnectionError when an answer has begun."""
        super().handle_error(request, status, exc, message)
        shown = printable((message or "The server failed to answer this request.").partition("\n")[0])
        response = ApiError(status, shown).response()
        response.force_close()
        return response


class OnlyOurErrors(logging.Filter):
    """For aiohttp's log: a client that does not speak HTTP gets a 400, and no traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


class Connections:
    """What is open: requests in progress, and connections that have sent no request yet."""

    def __init__(self, receive_timeout: float) -> None:
        """A client gets `receive_timeout` seconds for the head of its first request, and for each body."""
        self.receive_timeout = receive_timeout
        self.num_active = 0
        self.num_working = 0
        """Requests in progress that bring something to do: the server's load."""
        self.idle = asyncio.Event()
        """No request is in progress."""
        self.idle.set()
        self._silent: dict[RequestHandler, asyncio.TimerHandle] = {}

    def opened(self, protocol: Connection) -> Connection:
        loop = asyncio.get_running_loop()
        self._silent[protocol] = loop.call_later(self.receive_timeout, self._give_up, protocol)
        return protocol

    def _give_up(self, protocol: Connection) -> None:
        if self._silent.pop(protocol, None) is not None:
            protocol.force_close()

    def begin(self, request: web.Request, works: bool) -> None:
        timer = self._silent.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()
        self.hold(works)

    def hold(self, works: bool) -> None:
        """Something is in progress, until `end`: a request, or what one has left to be done."""
        self.num_active += 1
        self.num_working += works
        self.idle.clear()

    def end(self, works: bool) -> None:
        self.num_active -= 1
        self.num_working -= works
        if not self.num_active:
            self.idle.set()


CONNECTIONS = web.AppKey("connections", Connections)
