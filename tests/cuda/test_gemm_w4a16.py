"""Weights of 4 bits: their repacking, and gemm_w4a16 on the CPU against float64."""

from itertools import islice, product
from typing import Literal

import numpy as np
import pytest
import torch
from gemm_w4a16 import Case, check, dequantised, random_weights
from host import Schedule, schedules

from octavo.backends.cuda.int4 import Int4Weights, from_awq, from_gptq, pack
from octavo.errors import ModelError

SHORT = [
    Case(),
    Case(rows=1, outputs=160, bias=True, gap=8),
    Case(rows=9, inputs=192, group=32, token_tiles=1, grid=3),
    Case(rows=11, inputs=576, outputs=32, group=192, token_tiles=2, splits=4, bias=True),
    Case(rows=5, inputs=512, outputs=256, group=128, splits=3, grid=5),
    Case(rows=30, inputs=128, outputs=64, group=128, token_tiles=4, element="fp16", gap=16),
    Case(rows=70, inputs=256, outputs=96, group=64, token_tiles=8, splits=2, element="fp16", grid=1),
    Case(rows=2, inputs=128, outputs=32, group=128, splits=2, element="fp16"),
    Case(rows=3, inputs=384, outputs=160, group=128, splits=3, cancelling=True),
]


def name_of(case: Case) -> str:
    return f"{case.rows}x{case.inputs}x{case.outputs}-group{case.group}-splits{case.splits}-{case.element}"


@pytest.mark.parametrize("case", SHORT, ids=name_of)
def test_products_are_right_and_have_the_same_bits_in_every_order(case: Case) -> None:
    assert len({check(case, schedule) for schedule in islice(schedules(case.rows), 4)}) == 1


@pytest.mark.cuda_host_all
@pytest.mark.parametrize("element", ["bf16", "fp16"])
@pytest.mark.parametrize("token_tiles", [1, 2, 4, 8])
def test_all_cases(token_tiles: int, element: Literal["bf16", "fp16"]) -> None:
    shapes = ((64, 32, 32), (128, 96, 64), (384, 128, 128), (512, 288, 512))
    for number, ((inputs, outputs, group), splits, rows) in enumerate(
        product(shapes, (1, 2, 5), (1, 8 * token_tiles, 8 * token_tiles + 3))
    ):
        case = Case(
            rows,
            inputs,
            outputs,
            group,
            element,
            token_tiles,
            min(splits, inputs // 64),
            bias=number % 2 == 0,
            gap=number % 3 * 8,
            grid=1 + number % 5,
            seed=number,
        )
        check(case, Schedule(seed=number) if number % 2 else next(islice(schedules(number), 3, None)))


def words_of(nibbles: np.ndarray, order: tuple[int, ...]) -> torch.Tensor:
    """Eight neighbours of the last axis to a word; place i of it has column order[i]."""
    eights = nibbles.reshape(*nibbles.shape[:-1], -1, 8).astype(np.uint32)
    words = sum(eights[..., column] << np.uint32(4 * place) for place, column in enumerate(order))
    return torch.from_numpy(np.asarray(words, np.uint32).view(np.int32).copy())


def equal(one: Int4Weights, other: Int4Weights) -> bool:
    return torch.equal(one.codes, other.codes) and torch.equal(one.zeros, other.zeros)


def test_awq_and_gptq_layers_are_read() -> None:
    weights = random_weights(np.random.default_rng(1), 128, 64, 32)
    stored = Int4Weights(weights.codes, weights.zeros.clamp(1, 15), weights.scales)
    codes, zeros = stored.codes.numpy(), stored.zeros.numpy()
    awq, straight = (0, 2, 4, 6, 1, 3, 5, 7), tuple(range(8))
    assert equal(from_awq(words_of(codes, awq), words_of(zeros, awq), stored.scales), stored)

    by_inputs = words_of(np.ascontiguousarray(codes.T), straight).T.contiguous()
    groups = torch.arange(128) // 32
    assert equal(from_gptq(by_inputs, words_of(zeros - 1, straight), stored.scales, groups), stored)
    assert equal(from_gptq(by_inputs, words_of(zeros, straight), stored.scales, None, version=2), stored)
    with pytest.raises(ModelError, match="activation order"):
        from_gptq(by_inputs, words_of(zeros - 1, straight), stored.scales, groups.flip(0))


def test_scales_and_zeros_survive_packing_exactly() -> None:
    weights = random_weights(np.random.default_rng(2), 64, 32, 32)
    words = pack(weights).scales
    lanes = words.reshape(2, 8, 2, 2).permute(0, 2, 3, 1).reshape(2, 32)
    assert torch.equal(lanes & 31, weights.zeros.int())
    assert torch.equal((lanes & ~31).view(torch.float32), weights.scales.float())
    assert dequantised(weights).shape == (64, 32)


@pytest.mark.parametrize(("inputs", "outputs", "group"), [(96, 32, 32), (64, 48, 32), (128, 32, 16)])
def test_shapes_that_the_kernel_does_not_take_are_refused(inputs: int, outputs: int, group: int) -> None:
    with pytest.raises(ModelError, match=f"{inputs} inputs"):
        pack(random_weights(np.random.default_rng(3), inputs, outputs, group))
