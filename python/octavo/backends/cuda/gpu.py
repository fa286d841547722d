"""What GPUs there are, from NVIDIA's management library: no context is made on them, and no memory taken.

find_gpus()        those that this process may use, in CUDA's order
driver_version()   the driver's own, and the newest CUDA that it runs
"""

import ctypes
import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    uuid: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class DriverVersion:
    driver: str
    cuda: tuple[int, int]
    """The newest CUDA whose programs it runs."""


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_uint64), ("free", ctypes.c_uint64), ("used", ctypes.c_uint64))


class _Library:
    """libnvidia-ml.so.1, which comes with the driver. OSError where there is none."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        self._library.nvmlErrorString.restype = ctypes.c_char_p
        self.call("nvmlInit_v2")

    def call(self, name: str, *arguments: object) -> None:
        result = self._library[name](*arguments)
        if result:
            raise OSError(f"NVIDIA's management library: {self._library.nvmlErrorString(result).decode()}")

    def text(self, name: str, *arguments: object) -> str:
        buffer = ctypes.create_string_buffer(96)
        self.call(name, *arguments, buffer, len(buffer))
        return buffer.value.decode()

    def number(self, name: str) -> int:
        value = ctypes.c_int()
        self.call(name, ctypes.byref(value))
        return value.value

    def gpu(self, which: str) -> Gpu:
        """By number, or by (the beginning of) its UUID as CUDA_VISIBLE_DEVICES has it."""
        device = ctypes.c_void_p()
        if which.isdigit():
            self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(which)), ctypes.byref(device))
        else:
            self.call("nvmlDeviceGetHandleByUUID", which.encode(), ctypes.byref(device))
        memory, major, minor = _Memory(), ctypes.c_int(), ctypes.c_int()
        self.call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
        self.call("nvmlDeviceGetCudaComputeCapability", device, ctypes.byref(major), ctypes.byref(minor))
        return Gpu(
            name=self.text("nvmlDeviceGetName", device),
            uuid=self.text("nvmlDeviceGetUUID", device),
            capability=(major.value, minor.value),
            total_bytes=memory.total,
            free_bytes=memory.free,
        )


def find_gpus() -> list[Gpu]:
    """Empty where there is no NVIDIA driver, or nothing may be used (CUDA_VISIBLE_DEVICES)."""
    try:
        library = _Library()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            chosen = [str(index) for index in range(library.number("nvmlDeviceGetCount_v2"))]
        else:
            chosen = [name.strip() for name in visible.split(",") if name.strip()]
        return [library.gpu(which) for which in chosen]
    except OSError:
        return []


def driver_version() -> DriverVersion | None:
    """None without a driver."""
    try:
        library = _Library()
        cuda = library.number("nvmlSystemGetCudaDriverVersion_v2")
        return DriverVersion(library.text("nvmlSystemGetDriverVersion"), (cuda // 1000, cuda % 1000 // 10))
    except OSError:
        return None
