"""An engine's process and its descendants: start, end, standing still while another is measured, and memory."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def start(words: Sequence[str], environment: Mapping[str, str], **streams: Any) -> subprocess.Popen[Any]:
    """In a session of its own, which Ctrl-C does not reach; it dies with us, however we end."""
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1
    # What a signal's handler raises inside of Python's hooks around a fork is lost.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def die_with_parent() -> None:
        prctl(set_parent_death_signal, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    environment = {**os.environ, **environment}
    try:
        return subprocess.Popen(words, env=environment, start_new_session=True, preexec_fn=die_with_parent, **streams)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def running(process: int | None) -> Iterator[None]:
    """Lets it run inside the block only: threads that spin would take time from the engine that is measured."""
    _signal(process, signal.SIGCONT)
    try:
        yield
    finally:
        stop(process)


def stop(process: int | None) -> None:
    _signal(process, signal.SIGSTOP)


def end(process: subprocess.Popen[Any], within: float) -> None:
    """Waits so long for a process that was told to end, then kills it, and in any case what it leaves behind."""
    whole = list(_tree(process.pid))
    with suppress(subprocess.TimeoutExpired):
        process.wait(within)
    for each in whole:
        # Once waited for, the first one's number may be another's.
        if each != process.pid or process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
    process.wait()


def resident_bytes(process: int) -> int:
    """Of it and all its descendants; a page that several share is counted once."""
    return sum(_proportional_bytes(each) for each in _tree(process))


def _tree(process: int) -> Iterator[int]:
    """It and its descendants."""
    yield process
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _tree(int(child))


def _signal(process: int | None, number: signal.Signals) -> None:
    for each in () if process is None else list(_tree(process)):
        with suppress(ProcessLookupError):
            os.kill(each, number)


def _proportional_bytes(process: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
