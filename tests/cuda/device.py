"""The tests' kernels on a real GPU, in place of host.py's: `pytest tests/cuda --gpu`.

Arrays lie in pinned memory of the host, which the GPU reads and writes at the same addresses. So the tests stay as they
are; nothing is fast.
"""

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray

from octavo.backends.cuda.compile import compile_kernels
from octavo.backends.cuda.driver import CudaDriver
from octavo.backends.cuda.nvrtc import Nvrtc
from octavo.backends.cuda.variants import KERNELS


@cache
def the_driver() -> CudaDriver:
    return CudaDriver()


class DeviceKernels:
    """HostKernels' interface. What a CPU may vary or count has no meaning here."""

    def __init__(
        self, source: Path, macros: Mapping[str, str | int] | None = None, kernels: Path | None = None
    ) -> None:
        driver = the_driver()
        self._cubin = compile_kernels(source, driver.architecture, macros or {}, nvrtc=Nvrtc(), include=KERNELS)
        self._module = driver.calls.moduleLoadData(self._cubin.path.read_bytes())
        self._uses = {use.name: use for use in self._cubin.kernels}

    def shape(self, name: str) -> tuple[int, int]:
        return self._uses[name].threads, self._uses[name].shared_bytes

    def constant(self, name: str) -> int:
        return self._cubin.constants[name]

    def launch(self, name: str, grid: int, arguments: list[Any], schedule: object = None) -> None:
        """Raises RuntimeError when the driver reports a fault."""
        calls = the_driver().calls
        function = calls.moduleGetFunction(self._module, name)
        threads, shared_bytes = self.shape(name)
        if shared_bytes:
            calls.funcSetAttribute(function, calls.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
        values = [ctypes.c_void_p(each.ctypes.data) if isinstance(each, np.ndarray) else each for each in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = torch.cuda.current_stream().cuda_stream
        calls.launchKernel(function, grid, 1, 1, threads, 1, 1, shared_bytes, stream, ctypes.addressof(pointers), 0)
        torch.cuda.synchronize()


def pinned(values: ArrayLike) -> NDArray[Any]:
    """A copy that the GPU can reach."""
    array = np.ascontiguousarray(values)
    memory = torch.empty(max(array.nbytes, 1), dtype=torch.uint8, pin_memory=True).numpy()
    copy: NDArray[Any] = memory[: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def sparse(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    pytest.skip("an array that is larger than the memory")
