"""The decoder's operations on a GPU: products by torch, the others by our kernels.

Activations have the model's 16-bit type, the residual stream is float32, and so are logits. Each operation keeps the
structure of its call, of which a launch takes a copy.
"""

import torch

from octavo.backends.cuda.arguments import Activation, GatedCall, NormCall
from octavo.backends.cuda.driver import Driver
from octavo.backends.cuda.kernels import Kernels
from octavo.models.decoder import Product


class CudaOps:
    """`DeviceOps` on tensors of the GPU."""

    def __init__(self, driver: Driver, kernels: Kernels, *, max_num_samples: int, vocab_size: int) -> None:
        self._kernels = kernels
        # One for all steps: each captured graph would keep its own, which is 5 GB for 512 rows of a large vocabulary.
        self._logits = torch.empty((max_num_samples, vocab_size), dtype=torch.float32, device=driver.device)
        self._norm, self._gated = NormCall(), GatedCall(activation=Activation.SILU)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        return lambda x: torch.nn.functional.linear(x, weight, bias)

    def head(self, weight: torch.Tensor, *, is_embedding: bool) -> Product:
        columns, logits = weight.t(), self._logits
        if weight.is_cuda:
            return lambda x: torch.mm(x, columns, out_dtype=torch.float32, out=logits[: len(x)])
        # Only the GPU has the product that widens.
        return lambda x: torch.mm(x.float(), columns.float(), out=logits[: len(x)])

    def rms_norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        residual = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
        self._norm.initialise = 1
        normed = self._launch_norm(rows, residual, weight, eps)
        self._norm.initialise = 0
        return normed, residual

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return self._launch_norm(x, residual, weight, eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        call = self._gated
        call.gate_up, call.out = gate_up.data_ptr(), out.data_ptr()
        call.gate_up_stride, call.out_stride = 2 * width, width
        call.num_rows, call.intermediate_size = rows, width
        self._kernels.gated_act.launch(rows, call)
        return out

    def _launch_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        rows, width = x.shape
        out = torch.empty_like(x)
        call = self._norm
        call.x, call.out, call.residual, call.weight = (
            x.data_ptr(),
            out.data_ptr(),
            residual.data_ptr(),
            weight.data_ptr(),
        )
        call.x_stride = call.out_stride = width
        call.num_rows, call.hidden_size, call.eps = rows, width, eps
        self._kernels.add_rms_norm.launch(rows, call)
        return out
