"""paged_decode, paged_prefill, attn_mla and attention_merge on the CPU, against float64."""

from itertools import islice, product
from typing import Any

import numpy as np
import pytest
from attention import Case, check, kernels_for
from host import EMULATED, schedules

HEAD_DIMS = (64, 80, 96, 128, 256)
TYPES = (("bf16", "bf16"), ("fp16", "fp16"), ("bf16", "fp8"), ("fp16", "fp8"))
GROUPS = ((4, 4), (4, 2), (7, 1), (16, 1), (20, 1))
"""Heads: groups of 1, 2, 7, 16 and 20. More than 16 are several units of decode."""
PAGES = (1, 16, 32, 64)
LAYOUTS = ("separate", "interleaved", "head_major")
DECODES = (
    ((1, 1),),
    ((1, 16), (1, 17), (1, 63)),
    ((1, 200), (1, 64), (1, 1), (1, 129), (1, 65)),
)
PREFILLS = (
    ((5, 5), (2, 130), (1, 33)),  # a prompt, a draft of 2 tokens, a token to decode
    ((70, 70),),
    ((33, 97), (20, 150), (3, 3)),  # chunks behind a context
)
EXTRAS: tuple[dict[str, Any], ...] = (
    {},
    {"window": 24},
    {"window": 70},
    {"soft_cap": 12.0, "sinks": True},
    {"window": 7, "soft_cap": 30.0, "sinks": True},
)


def cases_of(requests: tuple[tuple[tuple[int, int], ...], ...], chunks: tuple[int, ...]) -> list[Case]:
    """Everything with everything that may meet it; what is independent takes turns."""
    cases = []
    for number, (head_dim, types, heads, extra) in enumerate(product(HEAD_DIMS, TYPES, GROUPS, EXTRAS)):
        cases.append(
            Case(
                requests[number % len(requests)],
                head_dim,
                heads,
                PAGES[number // 3 % 4],
                types,
                chunk=chunks[number // 5 % len(chunks)],
                layout=LAYOUTS[number % 3],
                grid=1 + number % 7,
                seed=number,
                **extra,
            )
        )
    return cases


ALL_DECODES = cases_of(DECODES, (1 << 20, 64, 128))
ALL_PREFILLS = cases_of(PREFILLS, (1 << 20, 64))
LATENTS = [
    Case(
        requests,
        576,
        (num_heads, 1),
        PAGES[number % 4],
        types,
        chunk=(1 << 20, 64, 96)[number % 3],
        grid=1 + number % 5,
        seed=number,
        value_dim=512,
        **extra,
    )
    for number, (requests, num_heads, types, extra) in enumerate(
        product(DECODES, (1, 16, 20, 40), TYPES[:2], (EXTRAS[0], EXTRAS[2], EXTRAS[3]))
    )
]
SHORT = [
    Case(DECODES[2], 64, (8, 2), chunk=64, sinks=True, soft_cap=20.0),
    Case(DECODES[2], 64, (7, 1), page=1, chunk=64, window=40),
    Case(DECODES[1], 80, (4, 4), page=32, layout="head_major"),
    Case(DECODES[2], 128, (20, 1), types=("bf16", "fp8"), chunk=128, window=130, layout="interleaved"),
    Case(DECODES[2], 80, (4, 2), types=("fp16", "fp8"), sinks=True),
    Case(DECODES[1], 256, (4, 4), types=("fp16", "fp16"), page=64),
    Case(((1, 40), (1, 70)), 64, (4, 2), page=32, layout="sparse"),
    Case(PREFILLS[0], 64, (8, 2), chunk=64, sinks=True, soft_cap=20.0),
    Case(PREFILLS[2], 64, (7, 1), page=1, window=40, row_tiles=1),
    Case(PREFILLS[2], 64, (4, 2), window=70),
    Case(PREFILLS[1], 64, (4, 4), page=32, layout="head_major"),
    Case(PREFILLS[0], 128, (20, 1), types=("bf16", "fp8"), chunk=64, window=50, layout="interleaved"),
    Case(PREFILLS[2], 128, (4, 2), types=("bf16", "fp8"), sinks=True),
    Case(PREFILLS[0], 80, (4, 2), types=("fp16", "fp16"), page=64, sinks=True),
    Case(DECODES[2], 576, (16, 1), page=64, value_dim=512),
    Case(DECODES[2], 576, (21, 1), page=1, chunk=64, value_dim=512, sinks=True, window=100),
    Case(((1, 33), (1, 70)), 576, (5, 1), types=("fp16", "fp16"), value_dim=512, layout="sparse"),
]


def name_of(case: Case) -> str:
    kind = "decode" if all(count == 1 for count, _ in case.requests) else "prefill"
    return f"{kind}-{case.head_dim}-{'-'.join(case.types)}-{case.heads[0]}over{case.heads[1]}-page{case.page}"


@pytest.mark.parametrize("case", SHORT, ids=name_of)
def test_attention_is_right_in_every_order_and_without_bank_conflicts(case: Case) -> None:
    for schedule in islice(schedules(case.seed), 3):
        check(case, schedule)
    for kernels in kernels_for(case) if EMULATED else ():
        assert kernels.statistics.ldmatrix > 0
        assert kernels.statistics.bank_conflicts == 0


def test_the_same_bits_come_out_in_every_order() -> None:
    case = Case(DECODES[2], 64, (8, 2), chunk=64)
    assert len({check(case, schedule) for schedule in islice(schedules(), 4)}) == 1


@pytest.mark.cuda_host_all
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_all_cases(kind: str, head_dim: int) -> None:
    cases = [case for case in (ALL_DECODES if kind == "decode" else ALL_PREFILLS) if case.head_dim == head_dim]
    worst = [check(case, schedule) for case, schedule in zip(cases, schedules(head_dim), strict=False)]
    print(f"{kind}, head dimension {head_dim}: {len(worst)} cases, worst relative error {np.max(worst):.1e}")


@pytest.mark.cuda_host_all
def test_all_latents() -> None:
    worst = [check(case, schedule) for case, schedule in zip(LATENTS, schedules(), strict=False)]
    print(f"latents: {len(worst)} cases, worst relative error {np.max(worst):.1e}")
