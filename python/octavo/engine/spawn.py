"""The engine process, as the process that starts it sees it.

    API process                                     engine process (process.py)
    EngineProcess() ────────── spawns ─────────────▶ imports what it needs
    prepare(config) → begin(EngineStart) ── stdin, one line of JSON ──▶ build_engine → loop.run
    Frontend ◀──────────────── socketpair, frames ─────────────▶ Engine

The parent holds the writing end of the child's stdin open as a lifeline: when it closes, because the parent died or
gave up, the child ends, even while it loads.
"""

import contextlib
import socket
import subprocess
import sys
from typing import IO, TYPE_CHECKING, cast

import msgspec

from octavo._core import Endpoint

if TYPE_CHECKING:
    from octavo.engine.start import EngineStart


class EngineProcess:
    """The engine as a child process. It ends when it has drained, when its front end closes, or this process dies."""

    def __init__(self, start: "EngineStart | None" = None) -> None:
        """Without `start` it waits for `begin`: its imports need not wait until the model is found."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            # A group of its own: what a terminal or a shell sends to this process's group is for this process to judge.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "octavo.engine.process", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                process_group=0,
            )
        self._socket: socket.socket | None = ours
        self._lifeline = cast(IO[bytes], self._process.stdin)
        if start is not None:
            self.begin(start)

    def begin(self, start: "EngineStart") -> None:
        """Has it load the model and serve. Called once."""
        with contextlib.suppress(BrokenPipeError):  # it died at once: `poll` tells
            self._lifeline.write(msgspec.json.encode(start) + b"\n")
            self._lifeline.flush()

    def endpoint(self) -> Endpoint:
        """This process's end of the connection, once."""
        if self._socket is None:
            raise RuntimeError("the connection has been taken already")
        connection, self._socket = self._socket, None
        return Endpoint.from_fd(connection.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status (negative: the signal that ended it), or None while it lives."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def terminate(self) -> None:
        """Asks it to end now, by the lifeline; running requests are lost. For an end in order, drain it instead."""
        with contextlib.suppress(BrokenPipeError):
            self._lifeline.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def kill(self) -> None:
        """Ends it at once, also when it is stuck, and reaps it. It keeps nothing on disk that this could harm."""
        self._process.kill()
        self._process.wait()
        self.terminate()
