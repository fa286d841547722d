"""update_rows on the CPU."""

from itertools import islice

import pytest
from host import schedules
from update_rows import Case, check

CASES = [
    Case(),
    Case(num_tokens=1, num_deltas=0, padding=7),
    Case(num_tokens=0, num_deltas=28, padding=3),
    Case(num_tokens=300, num_deltas=200, padding=13, rows=(20, 33), grid=1),
    Case(num_tokens=700, num_deltas=1, sampled=1.0, rows=(700, 2), grid=3),
    Case(num_tokens=64, num_deltas=64, sampled=0.0, rows=(64, 1), grid=9),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_deltas_reach_the_table_and_tokens_are_resolved(number: int) -> None:
    for schedule in islice(schedules(number), 4):
        check(CASES[number], schedule)
