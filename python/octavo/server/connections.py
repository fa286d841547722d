"""The server's open connections: whether any request is in progress, and clients that take too long to send one."""

import asyncio

from aiohttp import web
from aiohttp.web_protocol import RequestHandler


class Connections:
    """What is open: requests in progress, and connections that have sent no request yet."""

    def __init__(self, receive_timeout: float) -> None:
        """A client gets `receive_timeout` seconds for the head of its first request, and for each body."""
        self.receive_timeout = receive_timeout
        self.num_active = 0
        self.idle = asyncio.Event()
        """No request is in progress."""
        self.idle.set()
        self._silent: dict[RequestHandler, asyncio.TimerHandle] = {}

    def opened(self, protocol: RequestHandler) -> RequestHandler:
        loop = asyncio.get_running_loop()
        self._silent[protocol] = loop.call_later(self.receive_timeout, self._give_up, protocol)
        return protocol

    def _give_up(self, protocol: RequestHandler) -> None:
        if self._silent.pop(protocol, None) is not None:
            protocol.force_close()

    def begin(self, request: web.Request) -> None:
        timer = self._silent.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()
        self.num_active += 1
        self.idle.clear()

    def end(self) -> None:
        self.num_active -= 1
        if not self.num_active:
            self.idle.set()


CONNECTIONS = web.AppKey("connections", Connections)
