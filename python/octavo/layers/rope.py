"""The rotary table that the kernels read."""

import numpy as np
import torch

from octavo.models.spec import RopeSpec


def cos_sin_table(rope: RopeSpec, length: int) -> torch.Tensor:
    """f32 [length, rotary_dim]: cosines in the first half of a row, sines in the second.

    Angles are rounded to float32 as in the models' training code; only the functions are taken in double precision.
    """
    positions = np.arange(length, dtype=np.float32)[:, None]
    angles = (positions * np.array(rope.inverse_frequencies, dtype=np.float32)).astype(np.float64)
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * rope.magnitude
    return torch.from_numpy(table.astype(np.float32))
