"""kv_write on the CPU, against float64."""

from itertools import islice, product

import pytest
from host import schedules
from kv_write import Case, check

HEAD_DIMS = (64, 80, 96, 128, 256)
TYPES = (("bf16", "bf16"), ("fp16", "fp16"), ("bf16", "fp8"), ("fp16", "fp8"))
HEADS = ((4, 2), (7, 1), (4, 4), (1, 1))
ROTARY = (0, 4, 20, 32, 64)
PAGES = (1, 16, 32, 64)
LAYOUT_NAMES = ("separate", "interleaved", "head_major")

SHORT = [
    Case(),
    Case(num_tokens=1, padding=3, norm=True),
    Case(num_tokens=0, padding=2),
    Case(num_tokens=9, padding=7, heads=(7, 1), rotary_dim=20, page=1, gap=8, layout="head_major"),
    Case(num_tokens=6, interleaved=True, norm=True, skipped=(0, 3), layout="interleaved"),
    Case(num_tokens=6, rotary_dim=0, skipped=(5,), page=64),
    Case(num_tokens=4, head_dim=128, rotary_dim=128, types=("bf16", "fp8"), norm=True, spread=20.0),
    Case(num_tokens=5, head_dim=80, rotary_dim=20, types=("fp16", "fp8"), interleaved=True, padding=3, gap=24),
    Case(num_tokens=5, head_dim=256, rotary_dim=64, types=("fp16", "fp16"), norm=True, grid=11),
    Case(num_tokens=3, head_dim=64, types=("bf16", "fp8"), spread=1000.0, page=32),
    Case(num_tokens=40, page=16, layout="sparse"),
]


@pytest.mark.parametrize("number", range(len(SHORT)))
def test_heads_are_normed_rotated_and_cached_and_nothing_else_changes(number: int) -> None:
    for schedule in islice(schedules(number), 3):
        check(SHORT[number], schedule)


@pytest.mark.cuda_host_all
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_all_cases(head_dim: int) -> None:
    random_kinds = product(TYPES, HEADS, (*ROTARY, head_dim), (False, True), (False, True))
    for number, ((types, heads, rotary_dim, interleaved, norm), schedule) in enumerate(
        zip(random_kinds, schedules(head_dim), strict=False)
    ):
        case = Case(
            1 + number % 7,
            number % 4,
            head_dim,
            heads,
            types,
            PAGES[number // 3 % 4],
            LAYOUT_NAMES[number % 3],
            rotary_dim,
            interleaved,
            norm,
            skipped=(0,) if number % 5 == 0 else (),
            gap=number % 2 * 8,
            grid=1 + number % 6,
            seed=number,
        )
        check(case, schedule)
