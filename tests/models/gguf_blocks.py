"""Rows of float32 as GGUF blocks of any type: by the `gguf` package where it can, by a plain rule of our own else.

    encode(rows, kind)    uint8[rows, bytes a row]; `gguf.quants.dequantize` gives the numbers that they stand for

The package dequantises K-quants but does not make them. Ours are no good as a compression (each scale is the range of
its 16 or 32 weights, rounded up), and do not need to be: what the blocks stand for is what the package says.
Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Type
from gguf.quants import quantize
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SUPER_BLOCK = 256


def encode(rows: Floats, kind: Type) -> Bytes:
    own = {Type.Q4_K: _q4_k, Type.Q5_K: _q5_k, Type.Q6_K: _q6_k}
    if kind not in own:
        return quantize(rows, kind).view(np.uint8).reshape(rows.shape[0], -1)
    blocks = own[kind](rows.reshape(-1, SUPER_BLOCK))
    assert blocks.shape[1] == GGML_QUANT_SIZES[kind][1]
    return blocks.reshape(rows.shape[0], -1)


def _halves(values: Floats) -> Bytes:
    return values.astype(np.float16).view(np.uint8).reshape(values.shape[0], 2)


def _ranges(blocks: Floats, levels: int) -> tuple[Bytes, NDArray[np.int64]]:
    """(f16 scale, f16 minimum and the packed 6-bit scales and minima: 16 bytes, codes [n, 8, 32] up to `levels`)."""
    parts = blocks.reshape(-1, 8, 32)
    minima = np.maximum(0, -parts.min(-1))
    scales = np.maximum(parts.max(-1) + minima, 1e-8) / levels
    of_scales = (scales.max(-1) / 63).astype(np.float16).astype(np.float32)
    of_minima = np.maximum(minima.max(-1) / 63, 1e-8).astype(np.float16).astype(np.float32)
    scale_codes = np.ceil(scales / of_scales[:, None]).clip(1, 63).astype(np.uint8)
    minimum_codes = np.ceil(minima / np.maximum(of_minima, 1e-12)[:, None]).clip(0, 63).astype(np.uint8)
    step = of_scales[:, None] * scale_codes
    offset = of_minima[:, None] * minimum_codes
    codes = np.rint((parts + offset[..., None]) / step[..., None]).clip(0, levels).astype(np.int64)
    packed = np.zeros((len(blocks), 12), dtype=np.uint8)
    packed[:, 0:4] = scale_codes[:, :4] | scale_codes[:, 4:] >> 4 << 6
    packed[:, 4:8] = minimum_codes[:, :4] | minimum_codes[:, 4:] >> 4 << 6
    packed[:, 8:12] = scale_codes[:, 4:] & 15 | (minimum_codes[:, 4:] & 15) << 4
    return np.concatenate([_halves(of_scales), _halves(of_minima), packed], axis=1), codes


def _nibbles(codes: NDArray[np.int64]) -> Bytes:
    """[n, 8, 32] → [n, 128]: two neighbouring parts share 32 bytes."""
    pairs = codes.reshape(-1, 4, 2, 32) & 15
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).astype(np.uint8).reshape(-1, 128)


def _q4_k(blocks: Floats) -> Bytes:
    header, codes = _ranges(blocks, 15)
    return np.concatenate([header, _nibbles(codes)], axis=1)


def _q5_k(blocks: Floats) -> Bytes:
    header, codes = _ranges(blocks, 31)
    high = ((codes >> 4) << np.arange(8)[None, :, None]).sum(1).astype(np.uint8)
    return np.concatenate([header, high, _nibbles(codes)], axis=1)


def _q6_k(blocks: Floats) -> Bytes:
    parts = blocks.reshape(-1, 16, 16)
    largest = np.take_along_axis(parts, np.abs(parts).argmax(-1)[..., None], -1)[..., 0]
    # A part whose largest weight is positive has a negative scale, as llama.cpp makes them: -32 reaches furthest.
    scales = np.where(np.abs(largest) < 1e-8, 1e-8, largest) / -32
    of_scales = (np.abs(scales).max(-1) / 127).astype(np.float16).astype(np.float32)
    scale_codes = np.rint(scales / np.maximum(of_scales, 1e-12)[:, None]).clip(-127, 127)
    scale_codes = np.where(scale_codes == 0, 1, scale_codes)
    step = of_scales[:, None] * scale_codes
    codes = (np.rint(parts / np.where(step == 0, 1, step)[..., None]).clip(-32, 31) + 32).astype(np.int64)
    quarters = codes.reshape(-1, 2, 4, 32)
    low = (quarters[:, :, :2] & 15 | (quarters[:, :, 2:] & 15) << 4).astype(np.uint8).reshape(-1, 128)
    shifts = 2 * np.arange(4)[None, None, :, None]
    high = (quarters >> 4 << shifts).sum(2).astype(np.uint8).reshape(-1, 64)
    return np.concatenate([low, high, scale_codes.astype(np.int8).view(np.uint8), _halves(of_scales)], axis=1)
