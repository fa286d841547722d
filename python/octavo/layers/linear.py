"""y = x Wᵀ + b with activations in float32 and weights in the model's dtype.

oneDNN with a weight in its own blocked order is the fastest product that torch has on a CPU. Measured on 2 cores of a
Zen 4 with W 3072 × 576, in µs:

    rows        1     4    16    1024
    F.linear  614   783   811  20,800   float32
    blocked   306   246   352  16,900
    F.linear  192   307   420           bfloat16
    blocked   137   113   198

One or two rows are slower than four, hence MIN_ROWS.
"""

from collections.abc import Callable

import torch

MIN_ROWS = 4
"""A step with fewer tokens is computed with this many rows; the results of the others are not used."""


class Linear:
    """A product with one fused weight. Owns the weight: `weight` [out, in] is reordered, and should be dropped."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, reorder: bool = True) -> None:
        """`reorder=False` keeps the row-major weight, for a head which is the embedding too."""
        self._product = _blocked(weight, bias, reorder) if _has_onednn(weight.dtype) else _plain(weight, bias)
        self._cast = weight.dtype != torch.float32
        self._dtype = weight.dtype

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """f32 [rows, in] -> f32 [rows, out]."""
        if self._cast:
            return self._product(x.to(self._dtype)).float()
        return self._product(x)


def _has_onednn(dtype: torch.dtype) -> bool:
    if not torch._C._has_mkldnn:
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True


def _blocked(weight: torch.Tensor, bias: torch.Tensor | None, reorder: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    product = torch.ops.mkldnn._linear_pointwise.default
    stored = torch.ops.mkldnn._reorder_linear_weight(weight) if reorder else weight
    return lambda x: product(x, stored, bias, "none", [], "")


def _plain(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: torch.nn.functional.linear(x, weight, bias)
