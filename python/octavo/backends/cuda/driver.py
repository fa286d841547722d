"""What the CUDA backend asks of a GPU beside torch's operations: kernels, pinned memory, copies, events, graphs.

    Driver          the protocol; tests have one that runs the same kernels on the CPU
    CudaDriver      NVIDIA's, through CuPy for modules and launches, and torch for memory, streams and graphs
    open_driver     the driver of this process's GPU

All work goes to torch's current stream at the time of the call: a stream that is remembered would miss a capture.
CuPy's driver calls are used as they are, without CuPy's own streams and memory pool, and only here.
"""

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch

from octavo.backends.cuda.compile import Cubin, KernelUse, compile_kernels
from octavo.backends.cuda.installation import cuda_lacks
from octavo.backends.cuda.nvrtc import Nvrtc
from octavo.backends.cuda.variants import KERNELS, Variant, architecture_of
from octavo.errors import ModelError

COMPILE_THREADS = 8


class Kernel(Protocol):
    """A loaded kernel with its one parameter."""

    resident_blocks: int
    """How many blocks of it the whole GPU runs at once."""

    def launch(self, grid: int, call: ctypes.Structure) -> None:
        """Starts `grid` blocks with what `call` holds now; a captured launch keeps that."""


class Module(Protocol):
    """One source of cuda/ with its macros, loaded."""

    def kernel(self, name: str) -> Kernel: ...

    def constant(self, name: str) -> int:
        """A number that the source publishes by OCTAVO_CONSTANT."""


class Event(Protocol):
    def synchronize(self) -> None:
        """Waits until all that was enqueued before the event is done."""


class Graph(Protocol):
    def replay(self) -> None:
        """Enqueues everything that was captured, with the same addresses."""


class Driver(Protocol):
    """One GPU, used from one thread."""

    device: torch.device
    name: str
    architecture: str
    """What kernels are compiled for, such as sm_90a."""

    def load(self, variants: Sequence[Variant]) -> list[Module]:
        """Compiles what the cache lacks, side by side. CompileError, or RuntimeError when the driver refuses."""

    def pinned(self, num_bytes: int) -> torch.Tensor:
        """Zeroed bytes on the host, which copies can reach without waiting."""

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Starts a copy from pinned memory to the GPU. The source may not change before a later event."""

    def download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Starts a copy from the GPU to pinned memory, which may not be read before a later event."""

    def record(self) -> Event: ...

    def peak_bytes(self) -> int:
        """The most of the GPU's memory that torch has held."""

    def capture(self, work: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        """Records `work` instead of running it. The tensor that it returns is the one that each replay fills."""


class CudaDriver:
    """The GPU that torch calls `cuda:index`."""

    def __init__(self, index: int = 0) -> None:
        from cupy_backends.cuda.api import driver

        self.device = torch.device("cuda", index)
        torch.cuda.set_device(self.device)
        properties = torch.cuda.get_device_properties(self.device)
        self.name = properties.name
        self.architecture = architecture_of(properties.major, properties.minor)
        self.num_multiprocessors = properties.multi_processor_count
        self.calls = driver
        self._graph_memory = torch.cuda.graph_pool_handle()
        torch.zeros(1, device=self.device)  # CuPy's calls need the context that torch makes

    def load(self, variants: Sequence[Variant]) -> list[Module]:
        nvrtc = Nvrtc()

        def compiled(variant: Variant) -> Cubin:
            return compile_kernels(KERNELS / variant.source, self.architecture, variant.macros, nvrtc=nvrtc)

        with ThreadPoolExecutor(COMPILE_THREADS) as threads:
            return [CudaModule(self, cubin) for cubin in threads.map(compiled, variants)]

    def pinned(self, num_bytes: int) -> torch.Tensor:
        return torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=True)

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def record(self) -> Event:
        event: Event = torch.cuda.current_stream(self.device).record_event()
        return event

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_reserved(self.device)

    def capture(self, work: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as a compiler's, may go on meanwhile.
        with torch.cuda.graph(graph, pool=self._graph_memory, capture_error_mode="thread_local"):
            result = work()
        return graph, result


class CudaModule:
    def __init__(self, driver: CudaDriver, cubin: Cubin) -> None:
        self._driver, self._constants = driver, cubin.constants
        self._uses = {use.name: use for use in cubin.kernels}
        self._handle: int = driver.calls.moduleLoadData(Path(cubin.path).read_bytes())

    def kernel(self, name: str) -> Kernel:
        return CudaKernel(self._driver, self._driver.calls.moduleGetFunction(self._handle, name), self._uses[name])

    def constant(self, name: str) -> int:
        return self._constants[name]


class CudaKernel:
    """Launching takes about a microsecond of Python: the block of parameters is one pointer to the structure."""

    __slots__ = ("_device", "_function", "_launch", "_pointers", "_shared_bytes", "_threads", "resident_blocks")

    def __init__(self, driver: CudaDriver, function: int, use: KernelUse) -> None:
        calls = driver.calls
        self._device, self._launch, self._function = driver.device, calls.launchKernel, function
        self._threads, self._shared_bytes = use.threads, use.shared_bytes
        self._pointers = (ctypes.c_void_p * 1)()
        if use.shared_bytes:
            calls.funcSetAttribute(function, calls.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, use.shared_bytes)
        blocks = calls.occupancyMaxActiveBlocksPerMultiprocessor(function, use.threads, use.shared_bytes)
        self.resident_blocks = int(blocks) * driver.num_multiprocessors

    def launch(self, grid: int, call: ctypes.Structure) -> None:
        self._pointers[0] = ctypes.addressof(call)
        stream: Any = torch.cuda.current_stream(self._device).cuda_stream
        self._launch(
            self._function,
            *(grid, 1, 1, self._threads, 1, 1),
            *(self._shared_bytes, stream, ctypes.addressof(self._pointers), 0),
        )


def open_driver() -> Driver:
    """ModelError when there is no GPU, or torch and CuPy were made for other versions of CUDA."""
    lacks = cuda_lacks()
    if lacks is not None:
        raise ModelError(f"--device cuda: {lacks}")
    return CudaDriver()
