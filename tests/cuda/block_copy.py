"""Caches for copy_blocks. check runs the kernel, and compares every byte of both sides."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from host import KERNELS, HostKernels, Schedule, guarded, sparse

from octavo.backends.cuda.arguments import BlockCopyCall

WILD = 1 << 30
"""A block that no cache has."""

FAR = 3 << 30
"""Bytes between planes that 32 bits do not count."""


@dataclass(frozen=True)
class Case:
    num_pairs: int = 3
    block_bytes: int = 256
    num_planes: int = 2
    blocks: tuple[int, int] = (5, 9)
    """Of a plane of the source, and of the target."""
    gaps: tuple[int, int] = (0, 0)
    """Bytes between planes of the source, and of the target."""
    within: bool = False
    """Source and target are one cache, of blocks[1] blocks."""
    grid: int = 3
    seed: int = 0


@cache
def kernels_of(folder: Path = KERNELS) -> HostKernels:
    return HostKernels(folder / "block_copy.cu", None, folder)


def check(case: Case, schedule: Schedule, folder: Path = KERNELS) -> None:
    random = np.random.default_rng(case.seed)
    sides = []
    for blocks, gap in zip(case.blocks, case.gaps, strict=True):
        used = blocks * case.block_bytes
        content = random.integers(0, 256, (case.num_planes, used), np.uint8)
        if gap < FAR:
            planes = guarded(np.full((case.num_planes, used + gap), 0xEE, np.uint8))
        else:
            planes = sparse((case.num_planes, used + gap), np.uint8)
        planes[:, :used] = content
        sides.append(planes)
    source, target = sides[1 if case.within else 0], sides[1]
    num_sources, num_targets = case.blocks[1 if case.within else 0], case.blocks[1]

    pairs = np.full((2, case.num_pairs + 1), WILD, np.int32)  # behind the count an earlier step's are left
    targets = random.permutation(num_targets)
    free = targets[case.num_pairs :] if case.within else np.arange(num_sources)
    pairs[0, : case.num_pairs] = random.choice(free, case.num_pairs)
    pairs[1, : case.num_pairs] = targets[: case.num_pairs]

    used = num_targets * case.block_bytes
    expected = target[:, :used].copy()
    expected_blocks = expected.reshape(case.num_planes, num_targets, case.block_bytes)
    source_blocks = source[:, : num_sources * case.block_bytes].reshape(case.num_planes, num_sources, case.block_bytes)
    before = source_blocks.copy()
    for from_block, to_block in pairs[:, : case.num_pairs].T:
        expected_blocks[:, to_block] = before[:, from_block]

    arrays = [guarded(pairs[0]), guarded(pairs[1]), guarded(np.array([case.num_pairs], np.int32))]
    call = BlockCopyCall(
        source=source.ctypes.data,
        target=target.ctypes.data,
        source_block=arrays[0].ctypes.data,
        target_block=arrays[1].ctypes.data,
        count=arrays[2].ctypes.data,
        source_plane_stride=source.strides[0],
        target_plane_stride=target.strides[0],
        block_bytes=case.block_bytes,
        num_planes=case.num_planes,
    )
    kernels_of(folder).launch("copy_blocks", case.grid, [call], schedule)
    np.testing.assert_array_equal(target[:, :used], expected)
    if case.gaps[1] < FAR:
        assert (target[:, used:] == 0xEE).all(), "between the planes something changed"
    if not case.within:
        np.testing.assert_array_equal(source_blocks, before)
