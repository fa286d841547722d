"""The engine process: how the API process starts it, and what it does.

    API process                                     engine process
    prepare(config) → EngineStart ── stdin, one line of JSON ──▶ main → build_engine → loop.run
    Frontend ◀──────────────── socketpair, frames ─────────────▶ Engine

The parent holds the writing end of the child's stdin open as a lifeline: when it closes, because the parent died or
gave up, the child ends, even while it loads. `LLM` calls `prepare` and `build_engine` in its own process.
"""

import argparse
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import IO, cast

import msgspec

from octavo._core import Endpoint
from octavo.engine import loop
from octavo.engine.build import build_engine
from octavo.engine.start import EngineStart
from octavo.errors import ModelError


class EngineProcess:
    """The engine as a child process. It ends when it has drained, when its front end closes, or this process dies."""

    def __init__(self, start: EngineStart) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            # A group of its own: what a terminal or a shell sends to this process's group is for this process to judge.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "octavo.engine.process", "--fd", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                process_group=0,
            )
        self._socket: socket.socket | None = ours
        self._lifeline = cast(IO[bytes], self._process.stdin)
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


def main() -> int:
    """The engine process. The exit status is 1, after one line on stderr, for what the user can put right."""
    parser = argparse.ArgumentParser(prog="octavo.engine.process")
    parser.add_argument("--fd", type=int, required=True, help="the connection to the front end, inherited")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A service manager signals the whole group; the parent drains, and ends this process when that is done.
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    start = msgspec.json.decode(_read_line(sys.stdin.fileno()), type=EngineStart)
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True, name="lifeline").start()
    try:
        engine, backend = build_engine(start, Endpoint.from_fd(arguments.fd))
    except (ModelError, MemoryError) as error:
        print(f"octavo: error: {error or 'out of memory while loading'}", file=sys.stderr)
        return 1
    loop.run(engine, backend)
    return 0


def _read_line(stdin: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(stdin, 1 << 16)
        if not chunk:
            raise EOFError("the configuration on stdin breaks off")
        line += chunk
    return line


def _end_with_parent(stdin: int) -> None:
    while os.read(stdin, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
