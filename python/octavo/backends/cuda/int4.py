"""Weights of 4 bits: from the layouts of AWQ and GPTQ checkpoints to the order that cuda/gemm_w4a16.cu reads.

Int4Weights        codes, zeros and scales, one a place: weight[k, n] = (code[k, n] - zero[g, n]) * scale[g, n]
from_awq           from the tensors of an AWQ layer
from_gptq          from those of a GPTQ layer
pack               to PackedInt4, which the kernel takes
"""

from dataclasses import dataclass

import torch

from octavo.errors import ModelError

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""The nibble of an AWQ word that each of its eight columns has: they are stored 0, 2, 4, 6, 1, 3, 5, 7."""

ZERO_MASK = 31
"""The bits of a scale that hold the zero. fp16 and bf16 scales are exact without them."""


@dataclass(frozen=True, slots=True)
class Int4Weights:
    """K inputs, N outputs, G groups of inputs."""

    codes: torch.Tensor
    """u8 [K, N], 0 to 15."""
    zeros: torch.Tensor
    """u8 [G, N], 0 to 16."""
    scales: torch.Tensor
    """[G, N], of any float type."""


@dataclass(frozen=True, slots=True)
class PackedInt4:
    """cuda/gemm_w4a16.cu: Int4GemmCall says what the kernel reads."""

    weights: torch.Tensor
    """i32 [N / 32, K / 32, 32 lanes, 4]"""
    scales: torch.Tensor
    """i32 [G, N]"""


def from_awq(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> Int4Weights:
    """qweight i32 [K, N / 8], qzeros i32 [G, N / 8], scales [G, N]: eight columns a word."""
    return Int4Weights(_nibbles(qweight, AWQ_ORDER), _nibbles(qzeros, AWQ_ORDER), scales)


def from_gptq(
    qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor, g_idx: torch.Tensor | None, *, version: int = 1
) -> Int4Weights:
    """qweight i32 [K / 8, N], eight inputs a word; qzeros i32 [G, N / 8], eight columns a word; scales [G, N].

    Version 1 of the format stores zeros less one. `g_idx` [K] is the group of each input. ModelError if groups are not
    neighbours, which is what act-order makes.
    """
    inputs, outputs = qweight.shape[0] * 8, qweight.shape[1]
    if g_idx is not None:
        neighbours = torch.arange(inputs, device=g_idx.device) // (inputs // scales.shape[0])
        if not torch.equal(g_idx.to(neighbours.dtype), neighbours):
            raise ModelError("GPTQ weights in activation order (desc_act) are not supported with --device cuda")
    order = tuple(range(8))
    codes = _nibbles(qweight.T, order).T.reshape(inputs, outputs)
    zeros = _nibbles(qzeros, order) + (1 if version == 1 else 0)
    return Int4Weights(codes, zeros, scales)


def pack(weights: Int4Weights) -> PackedInt4:
    """ModelError if the kernel cannot take the shape."""
    (inputs, outputs), groups = weights.codes.shape, weights.scales.shape[0]
    if outputs % 32 or inputs % 64 or inputs % groups or inputs // groups % 32:
        raise ModelError(
            f"a matrix of {inputs} inputs in {groups} groups and {outputs} outputs cannot be multiplied as int4: "
            "64 must divide the inputs, 32 their groups and the outputs"
        )
    # Outputs are a block of 32, a tile of 16 in it, the tile's upper half, a row; inputs are a step of 32, a tile of 16
    # in it, the tile's upper half, a column of the fragment, one of a pair.
    places = weights.codes.T.reshape(outputs // 32, 2, 2, 8, inputs // 32, 2, 2, 4, 2)
    block, tile, upper, row, step, input_tile, input_upper, column, neighbour = range(9)
    words = places.permute(block, step, row, column, input_tile, tile, neighbour, input_upper, upper)
    nibbles = words.reshape(-1, 8)
    packed = torch.zeros(nibbles.shape[0], dtype=torch.int32, device=nibbles.device)
    for place in range(8):
        packed |= nibbles[:, place].to(torch.int32) << 4 * place
    scale_bits = weights.scales.to(torch.float32).view(torch.int32) & ~ZERO_MASK | weights.zeros.to(torch.int32)
    by_lane = scale_bits.reshape(groups, outputs // 32, 2, 2, 8).permute(0, 1, 4, 2, 3)
    return PackedInt4(packed.reshape(outputs // 32, inputs // 32, 32, 4), by_lane.reshape(groups, outputs).contiguous())


def _nibbles(words: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """u8 [rows, 8 * words] of i32 [rows, words]; `order` is the nibble of each of the eight."""
    shifts = 4 * torch.tensor(order, device=words.device, dtype=torch.int32)
    return ((words.unsqueeze(-1) >> shifts) & 15).to(torch.uint8).reshape(words.shape[0], -1)
