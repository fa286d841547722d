"""moe_routing.cu and moe_product.cu on the CPU, against float64."""

from itertools import islice, product

import numpy as np
import pytest
from host import guarded, schedules
from moe import Case, check, kernels_of

from octavo.backends.cuda.arguments import RouteCall, Scoring

SHORT = {
    "few-tokens": Case(),
    "one-token": Case(num_tokens=1, num_experts=40, top_k=8, grid=50),
    "many-of-one-expert": Case(num_tokens=40, num_experts=3, top_k=2, grid=2),
    "odd-shapes": Case(num_tokens=20, num_experts=5, top_k=3, hidden_size=200, intermediate_size=72, type="fp16"),
    "wide": Case(num_tokens=3, num_experts=4, hidden_size=136, intermediate_size=264),
    "large-tiles": Case(num_tokens=90, num_experts=4, top_k=2, tile_rows=64, grid=2),
    "deepseek": Case(
        num_tokens=9, num_experts=64, top_k=6, scoring=Scoring.SIGMOID, bias=True, groups=(8, 3), scale=2.5, shared=True
    ),
    "groups-by-their-best": Case(num_tokens=9, num_experts=36, top_k=4, groups=(12, 2), renormalise=False),
    "equal-scores": Case(num_tokens=12, num_experts=70, top_k=5, levels=1, groups=(7, 2)),
    "every-expert": Case(num_tokens=4, num_experts=6, top_k=6, renormalise=False, scoring=Scoring.SIGMOID),
    "most-experts": Case(num_tokens=2, num_experts=512, top_k=32, hidden_size=16, intermediate_size=16),
    "elsewhere": Case(num_tokens=30, num_experts=6, top_k=3, absent=True, shared=True),
    "whole-pages": Case(num_tokens=32, num_experts=3, top_k=1, hidden_size=56, intermediate_size=56),
    "no-tokens": Case(num_tokens=0),
}


@pytest.mark.parametrize("name", SHORT)
def test_each_stage_does_what_it_says(name: str) -> None:
    for schedule in islice(schedules(len(name)), 3):
        check(SHORT[name], schedule)


def test_the_same_bits_come_out_in_every_order() -> None:
    case = Case(num_tokens=20, num_experts=5, top_k=3, hidden_size=200)
    assert len({check(case, schedule) for schedule in islice(schedules(), 4)}) == 1


@pytest.mark.parametrize("scoring", list(Scoring))
def test_a_row_of_nan_goes_to_experts_that_exist(scoring: Scoring) -> None:
    logits = guarded(np.full((2, 8), 0x7FC0, np.uint16))
    experts, weights = guarded(np.full((2, 3), -1, np.int32)), guarded(np.zeros((2, 3), np.float32))
    num_tokens = guarded(np.array([2], np.int32))
    call = RouteCall(
        logits=logits.ctypes.data,
        experts=experts.ctypes.data,
        weights=weights.ctypes.data,
        num_tokens=num_tokens.ctypes.data,
        logits_stride=8,
        num_experts=8,
        top_k=3,
        scoring=scoring,
        renormalise=1,
        num_groups=4,
        top_groups=2,
        scale=1.0,
    )
    kernels_of("moe_routing.cu", "bf16", 16).launch("route_tokens", 1, [call])
    assert [sorted(set(row)) for row in experts.tolist()] == [[0, 1, 2]] * 2


def test_the_sources_agree_on_the_rows_of_a_tile() -> None:
    for tile_rows in (16, 64):
        assert kernels_of("moe_routing.cu", "bf16", tile_rows).constant("moe_tile_rows") == tile_rows
        assert kernels_of("moe_product.cu", "bf16", tile_rows).constant("moe_tile_rows") == tile_rows


@pytest.mark.cuda_host_all
def test_all_cases() -> None:
    shapes = list(product((1, 7, 33), (4, 9, 60), (1, 3), (64, 104), (32, 200), ("bf16", "fp16"), (16, 64)))
    schedule = schedules()
    for number, (num_tokens, num_experts, top_k, hidden, inner, kind, rows) in enumerate(shapes[::5]):
        case = Case(
            num_tokens,
            num_experts,
            top_k,
            hidden,
            inner,
            kind,
            scoring=Scoring(number % 2),
            bias=number % 3 == 0,
            absent=number % 4 == 0,
            shared=number % 5 == 0,
            tile_rows=rows,
            grid=1 + number % 6,
            seed=number,
        )
        check(case, next(schedule))
