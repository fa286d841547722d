"""What the engine process does: `python -m octavo.engine.process FD`, which only `spawn.EngineProcess` calls.

FD is its end of the connection to the front end, inherited. It waits for one line of JSON on stdin, an `EngineStart`,
makes the engine and turns it. `LLM` calls `prepare` and `build_engine` in its own process.
"""

import logging
import os
import signal
import sys
import threading

import msgspec

import octavo.engine.quiet_numpy  # noqa: F401  before all that imports NumPy
from octavo._core import Endpoint
from octavo.engine.build import build_engine
from octavo.engine.loop import EngineLoop
from octavo.engine.start import EngineStart
from octavo.errors import OctavoError


def main() -> int:
    """The engine process. The exit status is 1, after one line on stderr, for what the user can put right."""
    connection = int(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM):
        # A service manager signals the whole group; the parent drains, and ends this process when that is done.
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    line = _read_line(sys.stdin.fileno())
    if line is None:
        return 1
    start = msgspec.json.decode(line, type=EngineStart)
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True, name="lifeline").start()
    try:
        engine, backend = build_engine(start, Endpoint.from_fd(connection))
    except (OctavoError, MemoryError) as error:
        print(f"octavo: error: {error or 'out of memory while loading'}", file=sys.stderr)
        return 1
    EngineLoop(engine, backend).run()
    return 0


def _read_line(stdin: int) -> bytes | None:
    """None when the parent ended, or gave up, before it had said what to run."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(stdin, 1 << 16)
        if not chunk:
            return None
        line += chunk
    return line


def _end_with_parent(stdin: int) -> None:
    while os.read(stdin, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
