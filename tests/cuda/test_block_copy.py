"""copy_blocks on the CPU."""

from itertools import islice

import pytest
from block_copy import FAR, Case, check
from host import schedules

CASES = [
    Case(),
    Case(num_pairs=0),
    Case(num_pairs=2, block_bytes=16, num_planes=1, grid=1),
    Case(num_pairs=4, block_bytes=16400, within=True, grid=5),
    Case(num_pairs=1, block_bytes=32768, num_planes=3, gaps=(48, 16)),
    Case(num_pairs=2, block_bytes=4112, num_planes=2, gaps=(FAR, 0)),
    Case(num_pairs=2, block_bytes=4096, num_planes=2, gaps=(0, FAR), grid=7),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_blocks_arrive_whole_and_nothing_else_changes(number: int) -> None:
    for schedule in islice(schedules(number), 4):
        check(CASES[number], schedule)
