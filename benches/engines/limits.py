"""What the machine can do, to set the figures beside: bytes read per second, and float32 products per second."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

ARRAY_BYTES = 256 * 2**20
"""Of each thread; more than any cache holds."""
PIECE_BYTES = 2**18
"""Long enough that Python costs nothing, short enough that BLAS does not give it to threads of its own."""
MATRIX_SIZE = 2048
REPEATS = 7


def limits() -> dict[str, float]:
    """The best of several attempts: what other processes take is not the machine's limit."""
    return {
        "read_gb_per_s": round(_read_bandwidth(len(os.sched_getaffinity(0))), 1),
        "float32_matmul_gflop_per_s": round(2 * MATRIX_SIZE**3 / _fastest(_matmul()) / 1e9, 1),
    }


def _read_bandwidth(threads: int) -> float:
    arrays = [np.ones(ARRAY_BYTES // 4, dtype=np.float32) for _ in range(threads)]
    pieces = [np.split(array, ARRAY_BYTES // PIECE_BYTES) for array in arrays]

    def read(parts: list[np.ndarray]) -> None:
        for part in parts:
            np.dot(part, part)

    with ThreadPoolExecutor(threads) as pool:
        seconds = _fastest(lambda: list(pool.map(read, pieces)))
    return threads * ARRAY_BYTES / seconds / 1e9


def _matmul() -> Callable[[], object]:
    matrix = np.ones((MATRIX_SIZE, MATRIX_SIZE), dtype=np.float32)
    return lambda: matrix @ matrix


def _fastest(action: Callable[[], object]) -> float:
    def timed() -> float:
        began = time.perf_counter()
        action()
        return time.perf_counter() - began

    return min(timed() for _ in range(REPEATS))
