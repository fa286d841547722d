"""Builds a kernel for the CPU and launches it, with the driver's convention for arguments.

HostKernels      a .cu of cuda/ or of a test, compiled by g++ with cuda/host/
guarded          an array that ends where the next page cannot be touched
Launch, SCHEDULES    the order of the threads, and when asynchronous copies land
"""

import ctypes
import hashlib
import math
import mmap
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "cuda"
BUILDS = ROOT / "target" / "cuda-host"
EMULATED = True
"""Whether kernels run on this CPU; conftest.py puts device.py in this module's place for a GPU."""
MAP_NORESERVE = 0x4000
"""Of Linux; mmap has it from Python 3.13 on."""
FLAGS = (
    *("-x", "c++", "-std=c++20", "-O2", "-g", "-march=native", "-ffp-contract=off"),
    *("-fPIC", "-shared", "-fno-gnu-unique"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-DOCTAVO_HOST"),
)


class Order(IntEnum):
    """Of the threads; cuda/host/fibers.h."""

    FORWARD = 0
    REVERSE = 1
    SHUFFLED = 2
    SKEWED = 3


class Landing(IntEnum):
    """Of the bytes of a cp.async."""

    LATE = 0
    EARLY = 1
    MIXED = 2


@dataclass(frozen=True)
class Schedule:
    order: Order = Order.FORWARD
    landing: Landing = Landing.LATE
    seed: int = 0


def schedules(seed: int = 0) -> Iterator[Schedule]:
    """Without end, each kind in turn; the first dozen has every order with every landing."""
    for number in range(1 << 30):
        yield Schedule(Order(number % 4), Landing((number // 4 + number) % 3), seed + number)


class KernelFault(Exception):
    """The kernel did what a GPU would not forgive; the message says what and where."""


class _Options(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        *((name, ctypes.c_uint32) for name in ("shared_bytes", "order", "landing", "seed")),
    )


class Statistics(ctypes.Structure):
    """Of all launches of one HostKernels."""

    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("mma", "ldmatrix", "bank_conflicts", "copied_bytes", "switches", "blocks")
    )


class HostKernels:
    """The kernels of one source, compiled with `macros`. Builds are kept, by what they were made of.

    Warnings are errors, but for the sources of another folder: mutants leave things unused.
    """

    def __init__(self, source: Path, macros: Mapping[str, str | int] | None = None, kernels: Path = KERNELS) -> None:
        flags = [
            *FLAGS,
            *([] if kernels == KERNELS else ["-w"]),
            f"-I{kernels}",
            *(f"-D{name}={value}" for name, value in (macros or {}).items()),
        ]
        made_of = hashlib.sha256(repr(flags).encode())
        for path in sorted({source, *kernels.rglob("*.cuh"), *kernels.rglob("*.h")}):
            made_of.update(path.read_bytes())
        built = BUILDS / f"{source.stem}-{made_of.hexdigest()[:24]}.so"
        if not built.exists():
            BUILDS.mkdir(parents=True, exist_ok=True)
            draft = built.with_suffix(f".{id(self)}")
            subprocess.run(["g++", *flags, "-o", draft, source], check=True)
            draft.replace(built)
        self._library = ctypes.CDLL(str(built))
        self._library.octavo_statistics.restype = ctypes.POINTER(Statistics)

    @property
    def statistics(self) -> Statistics:
        statistics: Statistics = self._library.octavo_statistics().contents
        return statistics

    def shape(self, name: str) -> tuple[int, int]:
        """Threads of a block, and bytes of shared memory, as the kernel publishes them."""
        threads, shared_bytes = (ctypes.c_uint32 * 2).in_dll(self._library, f"octavo_shape_{name}")
        return threads, shared_bytes

    def constant(self, name: str) -> int:
        """A number that the source publishes."""
        return ctypes.c_uint32.in_dll(self._library, f"octavo_constant_{name}").value

    def launch(self, name: str, grid: int, arguments: list[Any], schedule: Schedule = Schedule()) -> None:
        """Runs a kernel with the shape that it publishes. Raises KernelFault."""
        threads, shared_bytes = self.shape(name)
        options = _Options((grid, 1, 1), (threads, 1, 1), shared_bytes, schedule.order, schedule.landing, schedule.seed)
        values = [ctypes.c_void_p(each.ctypes.data) if isinstance(each, np.ndarray) else each for each in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        function = self._library[f"octavo_launch_{name}"]
        function.restype = ctypes.c_char_p
        fault = function(ctypes.byref(options), pointers)
        if fault:
            raise KernelFault(fault.decode())


EmulatedKernels = HostKernels
"""Stays on the CPU when conftest.py replaces HostKernels."""

_libc = ctypes.CDLL(None, use_errno=True)


class _GuardedMemory:
    """Pages between two that cannot be touched, filled with NaN, unless they are many and stay untouched."""

    def __init__(self, size: int, poison: bool = True) -> None:
        page = mmap.PAGESIZE
        self._size = math.ceil(max(size, 1) / page) * page
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._mapping = mmap.mmap(-1, self._size + 2 * page, flags=flags)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        for guard in (start, start + page + self._size):
            if _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0):
                raise OSError(ctypes.get_errno(), "mprotect failed")
        if poison:
            self._mapping[page : page + self._size] = b"\xff" * self._size
        self._page = page

    def tail(self, size: int) -> NDArray[np.uint8]:
        return np.frombuffer(self._mapping, np.uint8, size, self._page + self._size - size)


def guarded(values: ArrayLike) -> NDArray[Any]:
    """A copy whose last byte is the last before a guard page: a touch behind it is a KernelFault, not a wrong number.

    What lies before it on its first page is NaN; the page before that is a guard again.
    """
    array = np.ascontiguousarray(values)
    copy = _GuardedMemory(array.nbytes).tail(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def sparse(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros that may be far larger than the memory, as long as few of their pages are touched."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    zeros: NDArray[Any] = _GuardedMemory(size, poison=False).tail(size).view(dtype).reshape(shape)
    return zeros
