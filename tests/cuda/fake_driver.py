"""A GPU that is not there: the driver of the CUDA backend, with kernels compiled for the CPU and tensors in its memory.

FakeDriver      runs what a real driver runs, in the same order, and refuses what a real one would not forgive
Tape            a captured graph: torch's operations and our launches, with the addresses of the capture

What is asynchronous shows: a copy to the host arrives when its event is waited for, and what is copied to the GPU must
stay as it is until then.
"""

import ctypes
import gc
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from host import KERNELS, HostKernels, schedules
from torch.utils._python_dispatch import TorchDispatchMode

from octavo.backends.cuda.driver import Event, Graph, Kernel, Module
from octavo.backends.cuda.variants import Variant

POISON = 0xA5
"""In host memory between the start of a copy to it and its arrival."""


class FakeDriver:
    """`Driver` without a GPU. Every launch runs under another schedule of threads and copies."""

    def __init__(self, architecture: str = "sm_90a", resident_blocks: int = 6) -> None:
        self.device, self.name, self.architecture = torch.device("cpu"), "fake", architecture
        self.resident_blocks = resident_blocks
        self.num_launches = self.num_replays = self.num_in_flight = self.most_in_flight = 0
        self._schedules = schedules()
        self._tape: Tape | None = None
        self.tapes: list[Tape] = []
        self._launched: set[str] = set()
        self._pending: list[Callable[[], None]] = []

    def load(self, variants: Sequence[Variant]) -> list[Module]:
        if self._tape is not None:
            raise RuntimeError("a module was loaded during a capture")
        return [FakeModule(self, HostKernels(KERNELS / each.source, each.macros)) for each in variants]

    def pinned(self, num_bytes: int) -> torch.Tensor:
        if self._tape is not None:
            raise RuntimeError("pinned memory was allocated during a capture")
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self._check_copy(target, source)
        taken = source.clone()
        target.copy_(taken)
        self._pending.append(lambda: _check_unchanged(source, taken))

    def download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self._check_copy(target, source)
        taken = source.clone()
        target.view(torch.uint8).fill_(POISON)
        self._pending.append(lambda: _arrive(target, taken))

    def _check_copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        if self._tape is not None:
            raise RuntimeError("a copy between host and GPU in a graph")
        if target.shape != source.shape or target.dtype != source.dtype:
            raise RuntimeError(f"a copy from {source.shape} {source.dtype} to {target.shape} {target.dtype}")

    def peak_bytes(self) -> int:
        return 0

    def record(self) -> Event:
        event = FakeEvent(self, self._pending)
        self._pending = []
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        return event

    def capture(self, work: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        if self._tape is not None:
            raise RuntimeError("a capture in a capture")
        tape = self._tape = Tape(self)
        try:
            with tape:
                result = work()
        finally:
            self._tape = None
        self.tapes.append(tape)
        return tape, result

    def check_graphs(self) -> int:
        """How many addresses the graphs keep. AssertionError for one in memory that was given back since."""
        tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor]
        storages = [tensor.untyped_storage() for tensor in tensors]
        held = sorted({(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages})
        starts = [start for start, _ in held]
        count = 0
        for tape in self.tapes:
            for step in tape.steps:
                for field, address in addresses(step[3]) if isinstance(step[0], HostKernels) else ():
                    nearest = bisect_right(starts, address) - 1
                    assert nearest >= 0, f"{step[1]}: {field} is before all memory"
                    assert any(address < end for _, end in held[max(nearest - 8, 0) : nearest + 1]), (
                        f"a graph's {step[1]} has {field} in memory that nobody holds"
                    )
                    count += 1
        return count

    def launch(self, kernels: HostKernels, name: str, grid: int, call: ctypes.Structure) -> None:
        if grid < 1:
            raise RuntimeError(f"{name}: a grid of {grid} blocks")
        if self._tape is None:
            self._launched.add(name)
            self.run(kernels, name, grid, call)
        elif name not in self._launched:
            raise RuntimeError(f"{name} is captured before it was launched once")
        else:
            self._tape.steps.append((kernels, name, grid, type(call).from_buffer_copy(call)))

    def run(self, kernels: HostKernels, name: str, grid: int, call: ctypes.Structure) -> None:
        self.num_launches += 1
        kernels.launch(name, grid, [call], next(self._schedules))


def addresses(call: ctypes.Structure) -> Iterator[tuple[str, int]]:
    """The pointers of a structure that are not null, with their names."""
    for name, kind in call._fields_:
        value = getattr(call, name)
        if isinstance(value, ctypes.Structure):
            yield from ((f"{name}.{inner}", address) for inner, address in addresses(value))
        elif kind is ctypes.c_void_p and value:
            yield name, value


def _arrive(target: torch.Tensor, taken: torch.Tensor) -> None:
    if not (target.view(torch.uint8) == POISON).all():
        raise RuntimeError("the host wrote where a copy from the GPU was to arrive")
    target.copy_(taken)


def _check_unchanged(source: torch.Tensor, taken: torch.Tensor) -> None:
    if not torch.equal(source, taken):
        raise RuntimeError("the host changed what was being copied to the GPU")


@dataclass
class FakeEvent:
    driver: FakeDriver
    pending: list[Callable[[], None]]

    @torch.inference_mode()
    def synchronize(self) -> None:
        for arrive in self.pending:
            arrive()
        self.pending = []
        self.driver.num_in_flight -= 1


@dataclass
class FakeModule:
    driver: FakeDriver
    kernels: HostKernels

    def kernel(self, name: str) -> Kernel:
        self.kernels.shape(name)
        return FakeKernel(self.driver, self.kernels, name)

    def constant(self, name: str) -> int:
        return self.kernels.constant(name)


@dataclass
class FakeKernel:
    driver: FakeDriver
    kernels: HostKernels
    name: str

    @property
    def resident_blocks(self) -> int:
        return self.driver.resident_blocks

    def launch(self, grid: int, call: ctypes.Structure) -> None:
        self.driver.launch(self.kernels, self.name, grid, call)


class Tape(TorchDispatchMode):
    """What a capture recorded. torch's operations run once while they are captured, and leave nothing but their
    addresses: each replay computes anew into the tensors of the capture."""

    def __init__(self, driver: FakeDriver) -> None:
        super().__init__()
        self._driver = driver
        self.steps: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._driver._tape is not self:
            raise RuntimeError("a replay runs as it was captured")
        kwargs = kwargs or {}
        # Nothing is computed in a capture: what an operation writes to is as before.
        written = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        before = [each.clone() for each in written] if function._schema.is_mutable else []
        result = function(*args, **kwargs)
        for tensor, content in zip(written, before, strict=False):
            tensor.copy_(content)
        self.steps.append((function, args, kwargs, result))
        return result

    def replay(self) -> None:
        self._driver.num_replays += 1
        for step in self.steps:
            if isinstance(step[0], HostKernels):
                self._driver.run(*step)
                continue
            function, args, kwargs, result = step
            again = function(*args, **kwargs)
            if isinstance(result, torch.Tensor) and again.data_ptr() != result.data_ptr() and again.numel():
                result.copy_(again)
