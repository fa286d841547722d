"""The process group of an engine: standing still while another is measured, and what it holds of memory."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
