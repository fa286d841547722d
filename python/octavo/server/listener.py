"""The socket that clients connect to: bound before the model loads, so that a port in use is known at once.

Connections are accepted here and not by the event loop's own server: uvloop accepts one a turn, and a turn that writes
to 1,000 streams takes 40 ms, so that the last of 1,000 new clients waited 4 s for its first token; now 0.5 s.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable

from octavo.config import ServerConfig
from octavo.errors import OctavoError
from octavo.server.tls import Tls

logger = logging.getLogger(__name__)

BACKLOG = 4096
PAUSE_SECONDS = 0.5


class ListenError(OctavoError):
    """The address cannot be used: one line for the user."""


class Listener:
    """A bound socket and the address to tell people. It listens when the server is ready."""

    def __init__(self, config: ServerConfig) -> None:
        """Raises ListenError."""
        self.uds = config.uds
        self._tasks: set[asyncio.Task[None]] = set()
        self._tls = None if config.ssl_certfile is None else Tls(config)
        self._handshake_timeout = config.receive_timeout
        self.socket = bind_unix(config.uds) if config.uds is not None else bind_tcp(config.host, config.port)

    @property
    def address(self) -> str:
        if self.uds is not None:
            return f"unix:{self.uds}"
        host, port = self.socket.getsockname()[:2]
        if host == "::":
            host = "0.0.0.0"  # noqa: S104  the familiar way to say every interface
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def listen(self, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        """Gives every connection a protocol, from now on. Raises ListenError when another process was faster."""
        try:
            self.socket.listen(BACKLOG)
        except OSError as error:
            raise ListenError(f"cannot listen on {self.address}: {error.strerror}") from None
        self._make_protocol = make_protocol
        asyncio.get_running_loop().add_reader(self.socket, self._accept)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(BACKLOG):
            try:
                connection, _ = self.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors, most likely: those who wait stay in the backlog until others have gone.
                logger.error("cannot accept a connection: %s", error.strerror)
                loop.remove_reader(self.socket)
                loop.call_later(PAUSE_SECONDS, self._resume)
                return
            connection.setblocking(False)
            task = loop.create_task(self._connect(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # it has gone already, or speaks no TLS
            if self._tls is None:
                await loop.connect_accepted_socket(self._make_protocol, connection)
            else:
                await loop.connect_accepted_socket(
                    self._make_protocol,
                    connection,
                    ssl=self._tls.context(),
                    ssl_handshake_timeout=self._handshake_timeout,
                )

    def _resume(self) -> None:
        if self.socket.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self.socket, self._accept)

    def stop(self) -> None:
        """Accepts nothing more."""
        asyncio.get_running_loop().remove_reader(self.socket)
        self.close()

    def close(self) -> None:
        self.socket.close()
        if self.uds is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.uds)


def bind_tcp(host: str | None, port: int) -> socket.socket:
    """`host` None or empty: every interface, by IPv6 and IPv4 where the machine has both."""
    shown = f"{host or '0.0.0.0'}:{port}"  # noqa: S104
    try:
        if host:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        else:
            both = socket.has_dualstack_ipv6()
            family, kind, protocol = (socket.AF_INET6 if both else socket.AF_INET), socket.SOCK_STREAM, 0
            address = ("::" if both else "", port)
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(f"cannot listen on {shown}: {error.strerror or error}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if host else 0)
        bound.bind(address)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise ListenError(f"port {port} is in use already; choose another with --port") from None
        raise ListenError(f"cannot listen on {shown}: {error.strerror}") from None
    except OverflowError:
        bound.close()
        raise ListenError(f"{port} is no port: 0 to 65535") from None
    return bound


def bind_unix(path: str) -> socket.socket:
    """Takes the place of a socket file that nobody listens on any more."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        remove_stale(path)
        bound.bind(path)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        reason = "it is in use already" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
        raise ListenError(f"cannot listen on {path}: {reason}") from None
    return bound


def remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
