"""What this machine gives the process: memory, cores, instructions; limits of its cgroups included.

available_memory(), usable_cores(), multiplies_bfloat16()
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that this process can take before the machine swaps or its cgroup kills it."""
    limits = [_meminfo()["MemAvailable"]]
    for folder in _cgroups("memory"):
        for names in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            left = memory_left(folder, *names)
            if left is not None:
                limits.append(left)
    return max(0, min(limits))


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut to the CPU time that its cgroups allow."""
    cores = float(len(os.sched_getaffinity(0)))
    for folder in _cgroups("cpu"):
        cores = min(cores, cpu_quota(folder))
    return max(1, math.ceil(cores))


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16."""
    flags = next((line for line in _lines(Path("/proc/cpuinfo")) if line.startswith(("flags", "Features"))), "")
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


def memory_left(cgroup: Path, limit_name: str, usage_name: str, reclaimable: str) -> int | None:
    """Bytes that one cgroup leaves; page cache which can be dropped counts as free. None without a limit."""
    limit, usage = "".join(_lines(cgroup / limit_name)), "".join(_lines(cgroup / usage_name))
    if not limit.isdigit() or not usage.isdigit():
        return None
    statistics = dict(line.split() for line in _lines(cgroup / "memory.stat"))
    return int(limit) - int(usage) + int(statistics.get(reclaimable, 0))


def cpu_quota(cgroup: Path) -> float:
    """Cores' worth of time that one cgroup allows; infinite without a limit."""
    values = "".join(_lines(cgroup / "cpu.max")).split()
    if not values:
        values = [*_lines(cgroup / "cpu.cfs_quota_us"), *_lines(cgroup / "cpu.cfs_period_us")]
    if len(values) != 2 or not all(value.isdigit() for value in values):
        return math.inf
    return int(values[0]) / int(values[1])


def _cgroups(controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of all above it, of version 2 and of version 1's controller."""
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        folder = root / path.lstrip("/")
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(root))


def _meminfo() -> dict[str, int]:
    pattern = re.compile(r"(\w+):\s+(\d+) kB")
    matches = (pattern.match(line) for line in _lines(Path("/proc/meminfo")))
    return {match[1]: int(match[2]) * 1024 for match in matches if match}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
