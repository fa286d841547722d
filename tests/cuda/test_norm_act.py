"""rms_norm, add_rms_norm and gated_act on the CPU, against float64."""

from itertools import islice, product
from typing import Literal

import pytest
from host import schedules
from norm_act import Case, check

from octavo.backends.cuda.arguments import Activation

TYPES = tuple((element, output) for element in ("bf16", "fp16") for output in (element, "fp8", "int8"))
KERNELS: tuple[Literal["rms_norm", "add_rms_norm", "gated_act"], ...] = ("rms_norm", "add_rms_norm", "gated_act")
SIZES = (8, 64, 896, 2048, 2056, 8192, 8200)
"""A block's step is 2048, and what it keeps in registers 8192."""

SHORT = [
    Case("rms_norm", 3, 96),
    Case("rms_norm", 3, 2056, in_place=True, gap=8),
    Case("rms_norm", 2, 8200, ("bf16", "fp8"), weight_offset=1.0, gap=16),
    Case("rms_norm", 3, 8, ("bf16", "int8"), zero_row=True, grid=1),
    Case("rms_norm", 2, 10256, in_place=True),
    Case("add_rms_norm", 4, 200, weight_offset=1.0, gap=8),
    Case("add_rms_norm", 2, 8216, ("fp16", "fp16"), in_place=True, grid=1),
    Case("add_rms_norm", 2, 8216, initialise=True),
    Case("add_rms_norm", 5, 64, ("bf16", "int8"), grid=2),
    Case("gated_act", 3, 2200, gap=8),
    Case("gated_act", 3, 64, activation=Activation.GELU_TANH, spread=30.0),
    Case("gated_act", 3, 64, ("fp16", "fp16"), activation=Activation.GELU_ERF, spread=3.0),
    Case("gated_act", 2, 8216, ("bf16", "fp8"), spread=3.0, gap=16),
    Case("gated_act", 3, 72, ("bf16", "int8"), zero_row=True, grid=1),
]


def name_of(case: Case) -> str:
    return f"{case.kernel}-{case.rows}x{case.size}-{'-'.join(case.types)}"


@pytest.mark.parametrize("case", SHORT, ids=name_of)
def test_rows_are_right_in_every_order_and_nothing_else_changes(case: Case) -> None:
    for schedule in islice(schedules(case.size), 3):
        check(case, schedule)


@pytest.mark.cuda_host_all
@pytest.mark.parametrize("types", TYPES, ids="-".join)
@pytest.mark.parametrize("kernel", KERNELS)
def test_all_cases(kernel: Literal["rms_norm", "add_rms_norm", "gated_act"], types: tuple[str, str]) -> None:
    for number, ((size, activation, initialise), schedule) in enumerate(
        zip(product(SIZES, Activation, (False, True)), schedules(), strict=False)
    ):
        case = Case(
            kernel,
            1 + number % 4,
            size,
            types,
            activation,
            float(number % 2),
            initialise,
            in_place=types[0] == types[1] and kernel != "gated_act" and number % 3 == 0,
            gap=number % 2 * 16,
            spread=(1.0, 0.01, 10.0)[number % 3],
            zero_row=number % 4 == 0,
            grid=1 + number % 5,
            seed=number,
        )
        check(case, schedule)
