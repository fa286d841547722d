"""Steps for kv_write, and what it must give, in float64.

Case     shapes, types, which tokens go to the cache
check    runs the kernel, compares what it wrote, and finds the rest of every array as it was
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from attention import LAYOUTS, SPARSE_STRIDE, kernels_of
from host import KERNELS, Schedule, guarded, sparse
from narrow import DECODE, ENCODE, NAN
from numpy.typing import NDArray

from octavo.backends.cuda.arguments import KvWriteCall
from octavo.models.rope import cos_sin_table
from octavo.models.spec import RopeSpec

Array = NDArray[Any]
POSITIONS = 300
WILD = 1 << 30
"""A position, and a slot, that no array has."""

EPS = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp8": 2.0**-4}
"""Half a step of rounding, relative."""
SMALLEST = {"bf16": 0.0, "fp16": 2.0**-25, "fp8": 2.0**-10}
"""Half of the smallest step."""


@dataclass(frozen=True)
class Case:
    num_tokens: int = 5
    padding: int = 0
    """Rows behind the count."""
    head_dim: int = 64
    heads: tuple[int, int] = (4, 2)
    types: tuple[str, str] = ("bf16", "bf16")
    page: int = 16
    layout: str = "separate"
    """As attention.py's."""
    rotary_dim: int = 64
    interleaved: bool = False
    norm: bool = False
    skipped: tuple[int, ...] = ()
    """Tokens whose slot is negative."""
    gap: int = 0
    """Elements between the rows of qkv."""
    spread: float = 1.0
    """Of the numbers: e4m3 ends at 448."""
    grid: int = 3
    seed: int = 0


def rotated(heads: Array, angles: Array, case: Case) -> Array:
    """heads [tokens, heads, dim], angles [tokens, rotary_dim] as cos_sin_table has them."""
    half = case.rotary_dim // 2
    result = heads.copy()
    first, second = slice(0, half), slice(half, 2 * half)
    if case.interleaved:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    cosine, sine = angles[:, None, :half], angles[:, None, half:]
    x, y = heads[..., first], heads[..., second]
    result[..., first], result[..., second] = x * cosine - y * sine, y * cosine + x * sine
    return result


def assert_rounded(actual: Array, expected: Array, kind: str, what: str) -> None:
    """`actual` is `expected` [.., dim], rounded; float32 may have moved it a little before, by cancellation too."""
    clipped = np.clip(expected, -448, 448) if kind == "fp8" else expected
    size = np.linalg.norm(expected, axis=-1, keepdims=True)
    allowed = np.maximum(np.abs(clipped) * EPS[kind], SMALLEST[kind]) + 1e-6 * size
    wrong = ~(np.abs(actual - clipped) <= allowed)
    assert not wrong.any(), f"{what}: {actual[wrong][0]} for {clipped[wrong][0]} at {np.argwhere(wrong)[0]}"


def check(case: Case, schedule: Schedule, folder: Path = KERNELS) -> None:
    random = np.random.default_rng(case.seed)
    num_heads, num_kv_heads = case.heads
    query_type, cache_type = case.types
    rows, count = case.num_tokens + case.padding, case.num_tokens
    all_heads = num_heads + 2 * num_kv_heads
    width = all_heads * case.head_dim

    fused = np.full((rows, width + case.gap), NAN[query_type], np.uint16)
    fused[:count, :width] = ENCODE[query_type](random.standard_normal((count, width)) * case.spread)
    qkv = guarded(fused)
    heads = DECODE[query_type](fused[:count, :width]).astype(np.float64).reshape(count, all_heads, case.head_dim)
    query, key, value = np.split(heads, [num_heads, num_heads + num_kv_heads], axis=1)

    kept: list[Array] = []

    def address(array: Array | None) -> int | None:
        if array is None:
            return None
        kept.append(guarded(array))
        return int(kept[-1].ctypes.data)

    norms: list[Array | None] = [None, None]
    if case.norm:
        norms = [ENCODE[query_type](random.uniform(0.5, 2, case.head_dim)) for _ in range(2)]
        query, key = (
            part / np.sqrt((part**2).mean(-1, keepdims=True) + 1e-5) * DECODE[query_type](weight)
            for part, weight in zip((query, key), norms, strict=True)
        )
    positions = np.full(rows, WILD, np.int32)
    positions[:count] = random.integers(0, POSITIONS, count)
    table = cos_sin_table(RopeSpec(case.rotary_dim, 10000.0), POSITIONS) if case.rotary_dim else None
    if table is not None:
        angles = table[positions[:count]].astype(np.float64)
        query, key = rotated(query, angles, case), rotated(key, angles, case)

    num_blocks = -(-count // case.page) + 2
    slots = np.full(rows, WILD, np.int64)
    slots[:count] = random.permutation(num_blocks * case.page)[:count]
    slots[list(case.skipped)] = -1
    scales = np.ones((2, num_kv_heads), np.float32)
    if cache_type == "fp8":
        scales = random.uniform(0.3, 3, (2, num_kv_heads)).astype(np.float32)
    dtype = np.uint8 if cache_type == "fp8" else np.uint16
    untouched = np.full((num_blocks, 2, case.page, num_kv_heads, case.head_dim), NAN[cache_type], dtype)

    call = KvWriteCall(
        qkv=qkv.ctypes.data,
        key_scales=address(scales[0]) if cache_type == "fp8" else None,
        value_scales=address(scales[1]) if cache_type == "fp8" else None,
        query_norm=address(norms[0]),
        key_norm=address(norms[1]),
        cos_sin=address(table),
        positions=address(positions),
        slot_mapping=address(slots),
        num_tokens=address(np.array([count], np.int32)),
        qkv_stride=width + case.gap,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        rotary_dim=case.rotary_dim,
        page_shift=case.page.bit_length() - 1,
        interleaved=case.interleaved,
        norm_eps=1e-5,
    )
    if case.layout == "sparse":
        caches = [sparse((num_blocks, SPARSE_STRIDE), dtype) for _ in range(2)]
        call.keys, call.values = (cache.ctypes.data for cache in caches)
        call.block_stride, call.token_stride = SPARSE_STRIDE, num_kv_heads * case.head_dim
        call.head_stride = case.head_dim
        page = untouched[0, 0]
        views = [cache[:, : page.size].reshape(num_blocks, *page.shape) for cache in caches]
        for view in views:
            view[...] = NAN[cache_type]
    else:
        axes = LAYOUTS[case.layout]
        shape = [untouched.shape[axis] for axis in axes]
        stride = {axis: prod(shape[place + 1 :]) for place, axis in enumerate(axes)}
        cache = guarded(untouched.transpose(axes))
        call.keys, call.values = cache.ctypes.data, cache.ctypes.data + stride[1] * cache.itemsize
        call.block_stride, call.token_stride, call.head_stride = stride[0], stride[2], stride[3]
        in_order = cache.transpose(np.argsort(axes))
        views = [in_order[:, 0], in_order[:, 1]]

    kernels_of("kv_write.cu", case.head_dim, case.types, 0, folder).launch("kv_write", case.grid, [call], schedule)

    query_width = num_heads * case.head_dim
    written = DECODE[query_type](qkv[:count, :query_width]).astype(np.float64).reshape(query.shape)
    assert_rounded(written, query, query_type, "query")
    assert (qkv[:, query_width:] == fused[:, query_width:]).all(), "keys and values of qkv changed"
    assert (qkv[count:] == fused[count:]).all(), "padding changed"

    cached = slots[:count] >= 0
    block, place = np.divmod(slots[:count][cached], case.page)
    for name, view, expected, scale in zip(("keys", "values"), views, (key, value), scales, strict=True):
        stored = DECODE[cache_type](view[block, place]).astype(np.float64)
        assert_rounded(stored, expected[cached] / scale[:, None], cache_type, name)
        others = np.ones(view.shape[:2], bool)
        others[block, place] = False
        assert (view[others] == NAN[cache_type]).all(), f"{name}: another slot changed"
