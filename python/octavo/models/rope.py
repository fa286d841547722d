"""Rotary frequencies from a config: default, linear, llama3 and YaRN scaling.

    rope_spec(config, head_dim) -> RopeSpec
    inverse_frequencies(rope)
    cos_sin_table(rope, length)              what the kernels read

Computed in float32 step by step, because the models were trained with float32 frequencies: at position 8,000 a
frequency that is more exact turns the fastest pairs by a visible angle.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from octavo.errors import ModelError
from octavo.models.config_reader import ConfigReader
from octavo.models.spec import RopeSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TABLE_ROWS = 1024
SUPPORTED = ("default", "linear", "llama3", "yarn")


def rope_spec(config: ConfigReader, head_dim: int) -> RopeSpec:
    """Reads `rope_parameters` (Transformers 5) or `rope_scaling` and `rope_theta` (before); ModelError if unknown."""
    scaling = config.mapping("rope_parameters")
    if any(isinstance(value, Mapping) for value in scaling.values()):
        raise ModelError("rope parameters that differ between layers are not supported")
    if not scaling.get("rope_type") and not scaling.get("type"):
        older = config.mapping("rope_scaling")
        scaling = older if older.get("rope_type") or older.get("type") else scaling
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in SUPPORTED:
        raise ModelError(f"rope type {kind!r} is not supported; supported: {', '.join(SUPPORTED)}")
    for source in (config, scaling):
        source.only("partial_rotary_factor", 1.0)
    theta = scaling.number("rope_theta", config.number("rope_theta", 10000.0))
    if kind == "linear":
        return RopeSpec(head_dim, theta, "linear", factor=scaling.number("factor"))
    if kind == "llama3":
        return _llama3(theta, head_dim, scaling, config)
    if kind == "yarn":
        return _yarn(theta, head_dim, scaling, config)
    return RopeSpec(head_dim, theta)


def inverse_frequencies(rope: RopeSpec) -> "NDArray[np.float32]":
    """Radians a position, one for each rotated pair, scaled."""
    # The process that plans needs no table, and no NumPy: 50 ms.
    import numpy as np

    exponents = np.arange(0, rope.rotary_dim, 2, dtype=np.float32) / np.float32(rope.rotary_dim)
    wavelengths: NDArray[np.float32] = np.float32(rope.theta) ** exponents
    one = np.float32(1)
    frequencies, factor = one / wavelengths, np.float32(rope.factor)
    low, width = np.float32(rope.low), np.float32(rope.high - rope.low)
    if rope.kind == "linear":
        frequencies = frequencies / factor
    elif rope.kind == "llama3":
        turns = np.float32(rope.original_length) * frequencies / np.float32(2 * math.pi)
        smooth = np.clip((turns - low) / width, 0, 1).astype(np.float32)
        frequencies = (one - smooth) * frequencies / factor + smooth * frequencies
    elif rope.kind == "yarn":
        ramp = np.clip((np.arange(rope.rotary_dim // 2, dtype=np.float32) - low) / width, 0, 1)
        kept = (one - ramp).astype(np.float32)
        frequencies = one / (factor * wavelengths) * (one - kept) + frequencies * kept
    return frequencies


def cos_sin_table(rope: RopeSpec, length: int) -> "NDArray[np.float32]":
    """f32 [length, rotary_dim]: cosines in the first half of a row, sines in the second.

    Angles are rounded to float32 as in the models' training code; only the functions are taken in double precision.
    """
    import numpy as np

    half = rope.rotary_dim // 2
    table = np.empty((length, rope.rotary_dim), dtype=np.float32)
    frequencies = inverse_frequencies(rope)
    # In pieces: what stands in double precision stays small beside the table.
    for start in range(0, length, TABLE_ROWS):
        rows = table[start : start + TABLE_ROWS]
        positions = np.arange(start, start + len(rows), dtype=np.float32)[:, None]
        angles = (positions * frequencies).astype(np.float64)
        rows[:, :half] = np.cos(angles) * rope.magnitude
        rows[:, half:] = np.sin(angles) * rope.magnitude
    return table


def _original_length(scaling: ConfigReader, config: ConfigReader) -> int:
    for source in (config, scaling):
        if source.get("original_max_position_embeddings") is not None:
            return source.integer("original_max_position_embeddings")
    return config.integer("max_position_embeddings")


def _llama3(theta: float, dim: int, scaling: ConfigReader, config: ConfigReader) -> RopeSpec:
    """Llama 3.1: slow frequencies divided by `factor`, fast ones kept, those between interpolated."""
    factor = scaling.number("factor")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    if high <= low:
        raise ModelError(f"rope: high_freq_factor {high} must be larger than low_freq_factor {low}")
    length = _original_length(scaling, config)
    return RopeSpec(dim, theta, "llama3", factor=factor, low=low, high=high, original_length=length)


def _yarn(theta: float, dim: int, scaling: ConfigReader, config: ConfigReader) -> RopeSpec:
    """YaRN (arXiv 2309.00071): a linear ramp between kept and divided frequencies, and a scale on attention."""
    length = _original_length(scaling, config)
    factor = scaling.number("factor", config.integer("max_position_embeddings") / length)

    def dimension(rotations: float) -> float:
        return dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.number("beta_fast", 32.0)), dimension(scaling.number("beta_slow", 1.0))
    if scaling.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    if scaling.get("attention_factor") is not None:
        magnitude = scaling.number("attention_factor")
    else:
        magnitude = _yarn_magnitude(factor, 1.0)
        if scaling.get("mscale") and scaling.get("mscale_all_dim"):
            magnitude = _yarn_magnitude(factor, scaling.number("mscale"))
            magnitude /= _yarn_magnitude(factor, scaling.number("mscale_all_dim"))
    return RopeSpec(dim, theta, "yarn", factor=factor, low=low, high=high, magnitude=magnitude)


def _yarn_magnitude(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0
