"""What crosses from NumPy to Rust: checked before it is used, and never copied."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from octavo._core import CpuKernels, PagedKvCache

KERNELS = CpuKernels(2)


def floats(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def expected_norm(x: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5) * weight


def test_the_kernels_write_where_they_are_told() -> None:
    x, weight, out = floats(5, 64), floats(64), np.zeros((5, 64), np.float32)
    before = x.copy()
    KERNELS.rms_norm(x, weight, out, 1e-5)
    np.testing.assert_allclose(out, expected_norm(x, weight), rtol=1e-5)
    np.testing.assert_array_equal(x, before)


def test_in_place_gives_the_same_bits() -> None:
    x, weight, out = floats(5, 64), floats(64), np.zeros((5, 64), np.float32)
    KERNELS.rms_norm(x, weight, out, 1e-5)
    KERNELS.rms_norm(x, weight, x[:], 1e-5)
    np.testing.assert_array_equal(x, out)


def test_in_place_with_a_residual() -> None:
    x, residual, weight = floats(5, 64), 2 * floats(5, 64), floats(64)
    total = x + residual
    KERNELS.add_rms_norm(x, residual, weight, x, 1e-5)
    np.testing.assert_array_equal(residual, total)
    np.testing.assert_allclose(x, expected_norm(total, weight), rtol=1e-5)


def test_no_rows_are_no_error() -> None:
    KERNELS.rms_norm(np.zeros((0, 64), np.float32), floats(64), np.zeros((0, 64), np.float32), 1e-5)


def readonly(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda: {"x": floats(5, 64).astype(np.float64)}, "x: "),
        (lambda: {"x": floats(5, 128)[:, ::2]}, "x: .*contiguous"),
        (lambda: {"x": floats(64, 5).T}, "x: .*contiguous"),
        (lambda: {"x": [1.0, 2.0]}, "x: "),
        (lambda: {"out": readonly(floats(5, 64))}, "out: .*read-only"),
        (lambda: {"out": floats(4, 64)}, "out"),
        (lambda: {"weight": floats(63)}, "has"),
        (lambda: {"weight": np.zeros(64, np.int32)}, "weight: "),
    ],
)
def test_a_wrong_buffer_is_named(change: Callable[[], dict[str, Any]], match: str) -> None:
    arguments = {"x": floats(5, 64), "weight": floats(64), "out": floats(5, 64), "eps": 1e-5, **change()}
    with pytest.raises((ValueError, TypeError), match=match):
        KERNELS.rms_norm(**arguments)


def test_buffers_that_overlap_are_refused() -> None:
    memory = floats(10, 64)
    with pytest.raises(ValueError, match="overlaps"):
        KERNELS.rms_norm(memory[:5], floats(64), memory[4:9], 1e-5)
    with pytest.raises(ValueError, match="overlaps"):
        KERNELS.add_rms_norm(memory[:5], memory[:5], floats(64), floats(5, 64), 1e-5)
    KERNELS.rms_norm(memory[:5], floats(64), memory[5:], 1e-5)


def test_instruction_sets_that_are_not_here_are_refused() -> None:
    assert CpuKernels.available()[-1] == "portable"
    assert CpuKernels(1, "portable").isa == "portable"
    assert CpuKernels(1).isa == CpuKernels.available()[0]
    with pytest.raises(ValueError, match="neon"):
        CpuKernels(1, "neon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="thread"):
        CpuKernels(0)


SIZES: dict[str, int] = {"num_layers": 2, "num_blocks": 4, "block_size": 4, "num_kv_heads": 2, "head_dim": 16}


def cache(**changes: Any) -> PagedKvCache:
    return PagedKvCache(KERNELS, **{**SIZES, "max_num_seqs": 2, "max_blocks_per_seq": 2, **changes})


def integers(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int32)


def step(**changes: Any) -> dict[str, Any]:
    """Three tokens of a request in row 1, in block 2."""
    return {
        "row": integers(1),
        "query_start": integers(0, 3),
        "seq_len": integers(3),
        "slot_mapping": np.array([8, 9, 10], np.int64),
        "delta_row": integers(1),
        "delta_column": integers(0),
        "delta_block": integers(2),
        "copy_source": integers(),
        "copy_target": integers(),
        **changes,
    }


def test_attention_over_one_block() -> None:
    paged = cache()
    paged.begin_step(**step())
    query, key, value = floats(3, 64), floats(3, 32) / 2, floats(3, 32) / 3
    out = np.zeros((3, 64), np.float32)
    paged.attention(0, query, key, value, out, scale=0.25)
    q, k, v = query.reshape(3, 4, 16), key.reshape(3, 2, 16).repeat(2, 1), value.reshape(3, 2, 16).repeat(2, 1)
    scores = np.einsum("qhd,khd->hqk", q, k) * 0.25 + np.triu(np.full((3, 3), -np.inf), 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(out.reshape(3, 4, 16), np.einsum("hqk,khd->qhd", weights, v), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"row": integers(2)}, "row"),
        ({"row": integers(-1)}, "row"),
        ({"delta_row": integers(2)}, "delta_row"),
        ({"delta_column": integers(2)}, "delta_column"),
        ({"delta_block": integers(4)}, "delta_block"),
        ({"slot_mapping": np.array([8, 9, 16], np.int64)}, "slot_mapping"),
        ({"slot_mapping": np.array([8, 9, -1], np.int64)}, "slot_mapping"),
        ({"slot_mapping": integers(8, 9, 10)}, "slot_mapping"),
        ({"seq_len": integers(9)}, "seq_len"),
        ({"query_start": integers(0, 2)}, "slot_mapping has 3 elements, expected 2"),
        ({"query_start": integers(3, 0)}, "query_start"),
        ({"copy_source": integers(0)}, "copy_target has 0 elements, expected 1"),
    ],
)
def test_an_index_out_of_range_is_named(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        cache().begin_step(**step(**change))


def test_a_cache_too_large_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        cache(num_blocks=2**31 - 1, num_layers=100, num_kv_heads=64, head_dim=256, block_size=64)
    with pytest.raises(ValueError, match="dtype"):
        cache(dtype="int4")
    bytes_of_one = PagedKvCache.block_bytes(num_layers=2, block_size=4, num_kv_heads=2, head_dim=16, dtype="float32")
    assert bytes_of_one == 2 * 2 * 4 * 2 * 16 * 4
