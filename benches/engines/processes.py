"""The process group of an engine: its start and end, standing still while another is measured, and its memory."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def start(words: Sequence[str], environment: Mapping[str, str], **streams: Any) -> subprocess.Popen[Any]:
    """A group of its own, whose first process dies with us, however we end."""
    prctl, set_parent_death_signal = ctypes.CDLL(None).prctl, 1

    def die_with_parent() -> None:
        prctl(set_parent_death_signal, signal.SIGKILL)

    environment = {**os.environ, **environment}
    return subprocess.Popen(words, env=environment, start_new_session=True, preexec_fn=die_with_parent, **streams)


@contextmanager
def running(group: int | None) -> Iterator[None]:
    """Lets a group run inside the block only: threads that spin would take time from the engine that is measured."""
    if group is not None:
        os.killpg(group, signal.SIGCONT)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            stop(group)


def stop(group: int | None) -> None:
    if group is not None:
        os.killpg(group, signal.SIGSTOP)


def end(process: subprocess.Popen[Any], within: float) -> None:
    """Waits so long for a process that was told to end, then kills it, and in any case what it leaves of its group."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(within)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def resident_bytes(group: int) -> int:
    """Of all its processes; a page that several share is counted once."""
    return sum(
        _proportional_bytes(process)
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and _is_in(process, group)
    )


def _is_in(process: Path, group: int) -> bool:
    try:
        return os.getpgid(int(process.name)) == group
    except ProcessLookupError:
        return False


def _proportional_bytes(process: Path) -> int:
    with suppress(OSError):
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
