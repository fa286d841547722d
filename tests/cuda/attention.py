"""Steps of attention for the kernels of cuda/, and what they must give, in float64.

Case        what a step is: shapes, types, requests, how their keys are split
Step        its arrays in guarded memory, with traps: wild pages, NaN behind each sequence, rows out of order
plan_work   the list of work, as octavo-core makes it
check       runs the kernels that a case needs, and compares
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from host import KERNELS, HostKernels, Schedule, guarded, sparse
from narrow import DECODE, ENCODE, NAN
from numpy.typing import NDArray

from octavo.backends.cuda.arguments import AttentionCall

TYPES = {"bf16": "Bfloat16", "fp16": "Float16", "fp8": "Float8"}
WILD_PAGE = 1 << 30
"""A block that is nowhere near the cache."""

LAYOUTS = {"separate": (1, 0, 2, 3, 4), "interleaved": (0, 1, 2, 3, 4), "head_major": (1, 0, 3, 2, 4)}
"""Orders of the axes [block, keys or values, token, head, dimension] in memory."""

SPARSE_STRIDE = 1 << 30
"""Elements; bytes of two blocks do not fit in 32 bits."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    requests: tuple[tuple[int, int], ...]
    """Of each: its query tokens, and all its tokens with them."""
    head_dim: int = 64
    heads: tuple[int, int] = (4, 2)
    """Of queries, and of keys and values."""
    page: int = 16
    types: tuple[str, str] = ("bf16", "bf16")
    """Of queries and output, and of the cache."""
    chunk: int = 1 << 20
    """Keys of an item of work, at most."""
    window: int = 0
    soft_cap: float = 0.0
    sinks: bool = False
    layout: str = "separate"
    """Of the cache: "separate" keys and values, "interleaved" block by block, "head_major" within a block, or "sparse":
    blocks so far apart that the distances need 64 bits."""
    grid: int = 3
    seed: int = 0
    row_tiles: int = 0
    """Of a warp in prefill; 0: the kernel's own choice."""
    value_dim: int = 0
    """0: a value is as long as a key; else it is the key's first numbers, and attn_mla.cu decodes."""

    @property
    def output_dim(self) -> int:
        return self.value_dim or self.head_dim

    @property
    def decode_source(self) -> str:
        return "attn_mla.cu" if self.value_dim else "paged_decode.cu"


@cache
def kernels_of(
    source: str, head_dim: int, types: tuple[str, str], row_tiles: int = 0, folder: Path = KERNELS
) -> HostKernels:
    macros: dict[str, str | int] = {"HEAD_DIM": head_dim, "QUERY_TYPE": TYPES[types[0]], "CACHE_TYPE": TYPES[types[1]]}
    if row_tiles:
        macros["ROW_TILES"] = row_tiles
    return HostKernels(folder / source, macros, folder)


def kernels_for(case: Case, folder: Path = KERNELS) -> list[HostKernels]:
    """What runs the case, but for merging."""
    counts = {count for count, _ in case.requests}
    decode = [kernels_of(case.decode_source, case.head_dim, case.types, 0, folder)] if 1 in counts else []
    prefill = [kernels_of("paged_prefill.cu", case.head_dim, case.types, case.row_tiles, folder)]
    return decode + (prefill if counts - {1} else [])


@dataclass
class Work:
    """The columns of a list of work and of its merges; cuda/attention.cuh."""

    items: list[tuple[int, int, int, int, int]]
    merges: list[tuple[int, int, int, int]]
    num_slots: int


def plan_work(case: Case, query_start: Array, tile_rows: int | None, first_slot: int) -> Work:
    """Of the requests with one query token (`tile_rows` is None), or of the others, in tiles of so many rows."""
    group = case.heads[0] // case.heads[1]
    work = Work([], [], first_slot)
    for entry, (num_query, length) in enumerate(case.requests):
        if (num_query == 1) != (tile_rows is None):
            continue
        bounds = [*range(0, length, case.chunk), length]
        slot = work.num_slots if len(bounds) > 2 else -1
        for part, (begin, end) in enumerate(pairwise(bounds)):
            for first_row in range(0, num_query * group, tile_rows or num_query * group):
                work.items.append((entry, first_row, begin, end, slot if slot < 0 else slot + part * num_query))
        if slot >= 0:
            num_parts = len(bounds) - 1
            work.num_slots += num_parts * num_query
            for token in range(num_query):
                work.merges.append((int(query_start[entry]) + token, slot + token, num_parts, num_query))
    work.items.sort(key=lambda item: item[2] - item[3])
    return work


class Step:
    def __init__(self, case: Case) -> None:
        self.case = case
        random = np.random.default_rng(case.seed)
        num_heads, num_kv_heads = case.heads
        query_type, cache_type = case.types
        lengths = [length for _, length in case.requests]
        num_rows = len(lengths) + 2
        self.query_start = np.cumsum([0, *(count for count, _ in case.requests)]).astype(np.int32)
        num_tokens = int(self.query_start[-1])

        query = random.standard_normal((num_tokens, num_heads, case.head_dim)) * 2
        stride = (num_heads + 2 * num_kv_heads) * case.head_dim
        fused = np.full((num_tokens, stride), NAN[query_type], np.uint16)  # K and V stand behind Q, and are not read
        fused[:, : num_heads * case.head_dim] = ENCODE[query_type](query).reshape(num_tokens, -1)
        self.query = DECODE[query_type](fused[:, : num_heads * case.head_dim]).reshape(query.shape).astype(np.float64)

        table_width = -(-max(lengths) // case.page) + 1
        self.rows = random.permutation(num_rows)[: len(lengths)].astype(np.int32)
        num_blocks = sum(-(-length // case.page) for length in lengths) + 2
        table = np.full((num_rows, table_width), WILD_PAGE, np.int32)
        free = list(random.permutation(num_blocks))
        scales = np.ones((2, num_kv_heads), np.float32)
        if cache_type == "fp8":
            scales = random.uniform(0.5, 2, (2, num_kv_heads)).astype(np.float32)
        codes = np.full((num_blocks, 2, case.page, num_kv_heads, case.head_dim), NAN[cache_type])
        self.keys, self.values = [], []
        for row, length in zip(self.rows, lengths, strict=True):
            stored = random.standard_normal((2, length, num_kv_heads, case.head_dim)) * 1.5
            encoded = ENCODE[cache_type](stored)
            decoded = DECODE[cache_type](encoded).astype(np.float64) * scales[:, None, :, None]
            self.keys.append(decoded[0])
            self.values.append(decoded[0][..., : case.value_dim] if case.value_dim else decoded[1])
            for column, first in enumerate(range(0, length, case.page)):
                block = free.pop()
                table[row, column] = block
                count = min(case.page, length - first)
                codes[block, :, :count] = encoded[:, first : first + count]
        codes = codes.astype(encoded.dtype)

        self.sinks = random.standard_normal(num_heads).astype(np.float32) * 3 if case.sinks else None
        self.scale = case.head_dim**-0.5
        self.output = guarded(np.full((num_tokens, num_heads, case.output_dim), NAN[query_type], np.uint16))
        self.log_sums = guarded(np.full((num_tokens, num_heads), np.nan, np.float32))
        self._kept: list[Array] = []
        self.call = AttentionCall(
            query=self._keep(fused),
            output=self.output.ctypes.data,
            sinks=None if self.sinks is None else self._keep(self.sinks),
            log_sums=self.log_sums.ctypes.data,
            block_table=self._keep(table),
            row=self._keep(self.rows),
            query_start=self._keep(self.query_start),
            seq_len=self._keep(np.array(lengths, np.int32)),
            query_stride=stride,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            table_stride=table_width,
            page_shift=case.page.bit_length() - 1,
            window=case.window,
            scale=self.scale,
            soft_cap=case.soft_cap,
        )
        if cache_type == "fp8":
            self.call.key_scales, self.call.value_scales = self._keep(scales[0]), self._keep(scales[1])
        if case.layout == "sparse":
            self._spread_cache(codes)
        else:
            self._lay_out_cache(codes)
        if case.value_dim:
            self.call.values = None

    def _keep(self, array: Array) -> int:
        """The address of a guarded copy that lives as long as the step."""
        self._kept.append(guarded(array))
        return int(self._kept[-1].ctypes.data)

    def _lay_out_cache(self, codes: Array) -> None:
        """Codes are [block, keys or values, token, head, dimension]."""
        axes = LAYOUTS[self.case.layout]
        shape = [codes.shape[axis] for axis in axes]
        stride = {axis: prod(shape[place + 1 :]) for place, axis in enumerate(axes)}
        address = self._keep(codes.transpose(axes))
        self.call.keys, self.call.values = address, address + stride[1] * codes.itemsize
        self.call.block_stride, self.call.token_stride, self.call.head_stride = stride[0], stride[2], stride[3]

    def _spread_cache(self, codes: Array) -> None:
        num_blocks, _, _, num_kv_heads, head_dim = codes.shape
        for kind, name in enumerate(("keys", "values")):
            cache = sparse((num_blocks, SPARSE_STRIDE), codes.dtype)
            cache[:, : codes[0, 0].size] = codes[:, kind].reshape(num_blocks, -1)
            self._kept.append(cache)
            setattr(self.call, name, cache.ctypes.data)
        self.call.block_stride, self.call.token_stride = SPARSE_STRIDE, num_kv_heads * head_dim
        self.call.head_stride = head_dim

    def set_work(self, work: Work) -> None:
        num_heads = self.case.heads[0]
        items = np.array(work.items, np.int32).reshape(-1, 5)
        merges = np.array(work.merges, np.int32).reshape(-1, 4)
        for target, columns in ((self.call.work, items), (self.call.merges, merges)):
            names = [name for name, _ in target._fields_]
            setattr(target, names[0], self._keep(np.array([len(columns)], np.int32)))
            for name, column in zip(names[1:], columns.T, strict=True):
                setattr(target, name, self._keep(column))
        partial = (max(work.num_slots, 1), num_heads)
        self.call.partial_output = self._keep(np.full((*partial, self.case.output_dim), np.nan, np.float32))
        self.call.partial_log_sums = self._keep(np.full(partial, np.nan, np.float32))

    def expected(self, entry: int) -> tuple[Array, Array]:
        """Output [tokens, heads, dim] and log-sum-exps in units of log2 [tokens, heads] of one request."""
        case = self.case
        group = case.heads[0] // case.heads[1]
        num_query, length = case.requests[entry]
        start = self.query_start[entry]
        keys = np.repeat(self.keys[entry], group, axis=1)
        values = np.repeat(self.values[entry], group, axis=1)
        scores = np.einsum("qhd,khd->hqk", self.query[start : start + num_query], keys) * self.scale
        if case.soft_cap:
            scores = case.soft_cap * np.tanh(scores / case.soft_cap)
        position = length - num_query + np.arange(num_query)[:, None]
        key = np.arange(length)
        seen = (key <= position) & ((key > position - case.window) | (case.window == 0))
        scores = np.where(seen, scores, -np.inf)
        top = scores.max(-1, keepdims=True)
        terms = np.exp(scores - top)
        total = terms.sum(-1, keepdims=True)
        if self.sinks is not None:
            total += np.exp(self.sinks[:, None, None] - top)
        log_sums = (top + np.log(total))[..., 0].T / np.log(2)
        return np.einsum("hqk,khd->qhd", terms / total, values), log_sums


TOLERANCE = {"bf16": 1e-2, "fp16": 2e-3}
"""Of a row: the norm of its error to its norm. One rounding to bf16 is up to 4e-3, and P and the output have one."""
ROUNDING_FLOOR = {"bf16": 0.0, "fp16": 2.0**-25}
"""How far a number is rounded however small it is: half of fp16's smallest step. Large sinks make small outputs."""


def check(case: Case, schedule: Schedule, folder: Path = KERNELS) -> float:
    """Runs the step; returns the worst relative error of a row."""
    step = Step(case)
    decodes = any(count == 1 for count, _ in case.requests)
    prefills = any(count > 1 for count, _ in case.requests)
    call = step.call

    def launch(source: str, grid: int, row_tiles: int = 0) -> None:
        if source == "attention_merge.cu":  # it reads no cache: one build for all types of that
            kernels = kernels_of(source, case.output_dim, (case.types[0], case.types[0]), 0, folder)
        else:
            kernels = kernels_of(source, case.head_dim, case.types, row_tiles, folder)
        kernels.launch(source.removesuffix(".cu"), grid, [call], schedule)

    def run(work: Work, source: str, row_tiles: int = 0) -> None:
        step.set_work(work)
        launch(source, case.grid, row_tiles)
        if work.merges:
            launch("attention_merge.cu", case.grid)

    if decodes:
        run(plan_work(case, step.query_start, None, 0), case.decode_source)
    for entry, (count, _) in enumerate(case.requests):
        rows = slice(step.query_start[entry], step.query_start[entry + 1])
        if count > 1:
            assert (step.output[rows] == NAN[case.types[0]]).all(), "decode wrote what is another kernel's"
    if prefills:
        kernels = kernels_of("paged_prefill.cu", case.head_dim, case.types, case.row_tiles, folder)
        tile_rows = kernels.constant("prefill_tile_rows")
        run(plan_work(case, step.query_start, tile_rows, 0), "paged_prefill.cu", case.row_tiles)

    worst = 0.0
    for entry in range(len(case.requests)):
        rows = slice(step.query_start[entry], step.query_start[entry + 1])
        expected, log_sums = step.expected(entry)
        actual = DECODE[case.types[0]](step.output[rows]).astype(np.float64)
        assert np.isfinite(actual).all(), f"request {entry}: output that was not written, or NaN"
        floor = ROUNDING_FLOOR[case.types[0]] * case.output_dim**0.5
        distance = np.maximum(np.linalg.norm(actual - expected, axis=-1) - floor, 0)
        error = distance / np.linalg.norm(expected, axis=-1)
        worst = max(worst, float(error.max()))
        assert worst < TOLERANCE[case.types[0]], f"request {entry}: relative error {error.max():.2g}"
        np.testing.assert_allclose(step.log_sums[rows], log_sums, atol=5e-5, err_msg=f"request {entry}")
    return worst
