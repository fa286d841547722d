"""Steps for update_rows. check runs the kernel, and compares every row and token."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from host import KERNELS, HostKernels, Schedule, guarded

from octavo.backends.cuda.arguments import StepCount, UpdateRowsCall

WILD = 1 << 30
"""A row, and a place, that no array has."""


@dataclass(frozen=True)
class Case:
    num_tokens: int = 5
    num_deltas: int = 3
    padding: int = 0
    """Tokens behind the count."""
    rows: tuple[int, int] = (4, 7)
    """Rows and columns of the block table."""
    sampled: float = 0.5
    """The share of the tokens that are a row's last one."""
    grid: int = 2
    seed: int = 0


@cache
def kernels_of(folder: Path = KERNELS) -> HostKernels:
    return HostKernels(folder / "update_rows.cu", None, folder)


def check(case: Case, schedule: Schedule, folder: Path = KERNELS) -> None:
    random = np.random.default_rng(case.seed)
    num_rows, width = case.rows
    table = guarded(random.integers(0, 1000, case.rows).astype(np.int32))
    expected_table = table.copy()
    places = random.permutation(num_rows * width)[: case.num_deltas]
    deltas = np.full((3, case.num_deltas + 2), WILD, np.int32)  # behind the count an earlier step's are left
    deltas[:, : case.num_deltas] = places // width, places % width, random.integers(0, 1000, case.num_deltas)
    expected_table[deltas[0, : case.num_deltas], deltas[1, : case.num_deltas]] = deltas[2, : case.num_deltas]

    num_padded = case.num_tokens + case.padding
    last_token = guarded(random.integers(-1, 50000, num_rows).astype(np.int32))
    last_token[::3] = -1  # nothing could be sampled
    ids = np.full(num_padded, -WILD, np.int32)
    ids[: case.num_tokens] = random.integers(0, 50000, case.num_tokens)
    from_row = random.random(case.num_tokens) < case.sampled
    ids[: case.num_tokens][from_row] = -1 - random.integers(0, num_rows, int(from_row.sum()))
    expected = np.where(ids >= 0, ids, np.maximum(last_token[np.clip(-1 - ids, 0, num_rows - 1)], 0))
    expected[case.num_tokens :] = 0

    counts = np.full(len(StepCount), WILD, np.int32)
    counts[[StepCount.NUM_TOKENS, StepCount.NUM_TABLE_DELTAS]] = case.num_tokens, case.num_deltas
    tokens = guarded(np.full(num_padded, -7, np.int32))
    arrays = {
        "counts": guarded(counts),
        "delta_row": guarded(deltas[0]),
        "delta_column": guarded(deltas[1]),
        "delta_block": guarded(deltas[2]),
        "input_ids": guarded(ids),
        "last_token": last_token,
        "block_table": table,
        "tokens": tokens,
    }
    addresses = {name: array.ctypes.data for name, array in arrays.items()}
    call = UpdateRowsCall(table_stride=width, num_padded_tokens=num_padded, **addresses)
    kernels_of(folder).launch("update_rows", case.grid, [call], schedule)
    np.testing.assert_array_equal(table, expected_table)
    np.testing.assert_array_equal(tokens, expected)
