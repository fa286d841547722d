"""The KV cache of both executors on a CPU."""

from octavo._core import CpuKernels, Engine, PagedKvCache
from octavo.engine.memory import MemoryPlan
from octavo.models.spec import DecoderSpec


def paged_kv_cache(
    kernels: CpuKernels, spec: DecoderSpec, memory: MemoryPlan, engine: Engine, *, max_num_seqs: int
) -> PagedKvCache:
    """As many blocks as the plan says, and a block table for `engine`'s requests."""
    if memory.kv_dtype == "fp8":
        raise ValueError("a CPU has no KV cache in fp8")
    return PagedKvCache(
        kernels,
        num_layers=spec.num_layers,
        num_blocks=memory.num_blocks,
        block_size=memory.block_size,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        max_num_seqs=max_num_seqs,
        max_blocks_per_seq=engine.max_blocks_per_seq,
        dtype=memory.kv_dtype,
    )
