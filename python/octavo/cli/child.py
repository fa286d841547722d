"""A server of our own, as a child process: for `octavo chat`, the demo, the tests and the benches.

It is `octavo serve`, started as a user starts it; started, waited for and ended here.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from octavo.cli.arguments import ENVIRONMENT_KEYS
from octavo.cli.client import Client
from octavo.errors import OctavoError

STOP_SECONDS = 60.0
"""More than the server's own shutdown timeout."""


class ServerEnded(OctavoError):
    """The server ended before it was ready; what was wrong it has said itself, on stderr."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the server ended with exit code {exit_code} before it was ready")
        self.exit_code = exit_code


@dataclass(frozen=True)
class ServerProcess:
    address: str
    """Its URL without /v1, or the path of its Unix socket."""
    command: list[str]
    process: subprocess.Popen[bytes]

    def stop(self) -> int:
        """SIGTERM, and the exit code. TimeoutExpired, and killed, when it does not come."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextlib.contextmanager
def running_server(
    model: str, *words: str, uds: str | None = None, stdout: int | None = None, ready_within: float = float("inf")
) -> Iterator[ServerProcess]:
    """`octavo serve MODEL WORDS`, ready, on `uds` or a free local port; stopped when the block ends.

    Raises ServerEnded, and TimeoutError after `ready_within` seconds. API keys in the environment are for other
    servers: this one has none unless `words` give one.
    """
    if uds is not None:
        address, where = uds, ["--uds", uds]
    else:
        port = free_port()
        address, where = f"http://127.0.0.1:{port}", ["--host", "127.0.0.1", "--port", str(port)]
    # -P: a folder called octavo where the user stands must not be taken for the package.
    command = [sys.executable, "-P", "-m", "octavo", "serve", model, *where, *words]
    # Its own session: Ctrl-C in the terminal is for us alone.
    process = subprocess.Popen(
        command,
        env={name: value for name, value in os.environ.items() if name not in ENVIRONMENT_KEYS},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        start_new_session=True,
        preexec_fn=_dies_with_us(),
    )
    server = ServerProcess(address, command, process)
    try:
        client = Client(address)
        deadline = time.monotonic() + ready_within
        while not client.healthy():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server was not ready after {ready_within:.0f} s")
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise ServerEnded(process.wait(timeout=0.02))
        yield server
    finally:
        if process.poll() is None:
            server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _dies_with_us() -> Callable[[], None]:
    """For the child, before it runs: Linux sends it SIGTERM when we end, however we end."""
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1

    def ask() -> None:
        prctl(set_parent_death_signal, signal.SIGTERM)

    return ask
