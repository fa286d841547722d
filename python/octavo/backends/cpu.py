"""The CPU: the Rust kernels behind the decoder's operations, and the paged KV cache behind its attention."""

import torch

from octavo._core import CpuKernels, PagedKvCache, Plan
from octavo.backends.base import Arena
from octavo.layers.linear import Linear
from octavo.models.decoder import Product
from octavo.models.rope import cos_sin_table
from octavo.models.spec import DecoderSpec


class CpuOps:
    """`DeviceOps` on float32 CPU tensors; the kernels work on their memory."""

    def __init__(self, kernels: CpuKernels) -> None:
        self._kernels = kernels
        self._activated = torch.empty(0)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        return Linear(weight, bias)

    def head(self, weight: torch.Tensor, *, is_embedding: bool) -> Product:
        return Linear(weight, reorder=not is_embedding)

    def rms_norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        residual = rows.float()
        x = torch.empty_like(residual)
        self._kernels.rms_norm(residual.numpy(), weight.numpy(), x.numpy(), eps)
        return x, residual

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        array = x.numpy()
        self._kernels.add_rms_norm(array, residual.numpy(), weight.numpy(), array, eps)
        return x

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        # Kept from layer to layer: memory that is fresh each time would be mapped page by page.
        if self._activated.shape != (rows, width):
            self._activated = gate_up.new_empty(rows, width)
        self._kernels.silu_mul(gate_up.numpy(), self._activated.numpy())
        return self._activated


class CpuAttention:
    """`Attention` of a spec's layers over one paged cache."""

    def __init__(self, spec: DecoderSpec, cache: PagedKvCache, kernels: CpuKernels, *, max_model_len: int) -> None:
        self._spec, self._cache, self._kernels = spec, cache, kernels
        self._cos_sin = cos_sin_table(spec.rope, max_model_len)

    def begin_step(self, arena: Arena, plan: Plan) -> None:
        """Applies the step's table changes and block copies, and keeps its columns for the layers."""
        reqs, deltas, copies = plan.num_reqs, plan.num_table_deltas, plan.num_block_copies
        self._positions = arena["positions"][: plan.num_tokens]
        self._cache.begin_step(
            row=arena["row"][:reqs],
            query_start=arena["query_start"][: reqs + 1],
            seq_len=arena["seq_len"][:reqs],
            slot_mapping=arena["slot_mapping"][: plan.num_tokens],
            delta_row=arena["delta_row"][:deltas],
            delta_column=arena["delta_column"][:deltas],
            delta_block=arena["delta_block"][:deltas],
            copy_source=arena["copy_source"][:copies],
            copy_target=arena["copy_target"][:copies],
        )

    def __call__(
        self, layer: int, qkv: torch.Tensor, query_norm: torch.Tensor | None, key_norm: torch.Tensor | None
    ) -> torch.Tensor:
        spec, kernels, tokens = self._spec, self._kernels, len(self._positions)
        sizes = [spec.query_size, spec.kv_size, spec.kv_size]
        query, key, value = (part.contiguous().numpy() for part in torch.split(qkv[:tokens], sizes, dim=1))
        for heads, norm in ((query, query_norm), (key, key_norm)):
            if norm is not None:
                kernels.rms_norm(heads, norm.numpy(), heads, spec.norm_eps)
            kernels.rope(heads, self._positions, self._cos_sin, spec.head_dim)
        out = qkv.new_empty(qkv.shape[0], spec.query_size)
        out[tokens:].zero_()
        window = spec.windows[layer]
        attended = out.numpy()[:tokens]
        self._cache.attention(layer, query, key, value, attended, scale=spec.attention_scale, sliding_window=window)
        return out
