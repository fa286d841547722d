"""The CPU: the Rust kernels behind the decoder's operations, and the paged KV cache behind its attention."""

import torch

from octavo._core import CpuKernels, PagedKvCache, Plan
from octavo.backends.base import Arena
from octavo.models.spec import DecoderSpec


class CpuOps:
    """`DeviceOps` on float32 CPU tensors; the kernels work on their memory."""

    def __init__(self, kernels: CpuKernels) -> None:
        self._kernels = kernels

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, eps: float) -> None:
        self._kernels.rms_norm(x.numpy(), weight.numpy(), out.numpy(), eps)

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
        array = x.numpy()
        self._kernels.add_rms_norm(array, residual.numpy(), weight.numpy(), array, eps)

    def rope(self, x: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, head_dim: int) -> None:
        self._kernels.rope(x.numpy(), positions.numpy(), cos_sin.numpy(), head_dim)

    def silu_mul(self, gate_up: torch.Tensor, out: torch.Tensor) -> None:
        self._kernels.silu_mul(gate_up.numpy(), out.numpy())


class CpuAttention:
    """`Attention` of a spec's layers over one paged cache."""

    def __init__(self, spec: DecoderSpec, cache: PagedKvCache) -> None:
        self._spec = spec
        self._cache = cache

    def begin_step(self, arena: Arena, plan: Plan) -> None:
        """Applies the step's table changes and block copies, and keeps its columns for the layers."""
        reqs, deltas, copies = plan.num_reqs, plan.num_table_deltas, plan.num_block_copies
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
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: int
    ) -> torch.Tensor:
        tokens, width = query.shape
        out = query.new_empty(rows, width)
        out[tokens:].zero_()
        self._cache.attention(
            layer,
            query.numpy(),
            key.numpy(),
            value.numpy(),
            out.numpy()[:tokens],
            scale=self._spec.attention_scale,
            sliding_window=self._spec.windows[layer],
        )
        return out
