"""The KV cache on a GPU, and the attention over it.

CudaCache        keys and values of every layer in blocks, and each row's table of blocks
CudaAttention    what the decoder calls: rotation and store, then attention by the step's lists of work
"""

import torch

from octavo.backends.cuda.arena import DeviceArena
from octavo.backends.cuda.arguments import AttentionCall, BlockCopyCall, KvWriteCall, StepCount
from octavo.backends.cuda.driver import Driver
from octavo.backends.cuda.kernels import Kernels
from octavo.models.rope import cos_sin_table
from octavo.models.spec import DecoderSpec

CACHE_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "fp8": torch.uint8}
WRITE_HEADS = 4
"""That a block of kv_write does at once."""

COPY_BLOCKS = 128
"""Of the kernel that copies blocks of the cache: enough to fill a GPU's memory channels."""


class CudaCache:
    """`planes` [layers, 2, blocks, block_size, kv_heads, head_dim]: keys, then values, of each layer."""

    def __init__(
        self,
        driver: Driver,
        spec: DecoderSpec,
        *,
        kv_dtype: str,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        max_blocks_per_seq: int,
    ) -> None:
        """`block_size` is a power of two."""
        self.block_size = block_size
        block = (block_size, spec.num_kv_heads, spec.head_dim)
        self.planes = torch.zeros(
            (spec.num_layers, 2, num_blocks, *block), dtype=CACHE_DTYPES[kv_dtype], device=driver.device
        )
        self.tables = torch.zeros((max_num_seqs, max_blocks_per_seq), dtype=torch.int32, device=driver.device)
        # What a stored value is multiplied by; only fp8 has scales, and without calibration they are 1.
        self.scales = None
        if kv_dtype == "fp8":
            self.scales = torch.ones(spec.num_kv_heads, dtype=torch.float32, device=driver.device)

    def copy_call(self, arena: DeviceArena) -> BlockCopyCall:
        """Copies the arena's pairs of blocks in every plane."""
        first = self.planes[0, 0]
        plane_bytes = first.numel() * first.element_size()
        return BlockCopyCall(
            source=self.planes.data_ptr(),
            target=self.planes.data_ptr(),
            source_block=arena.address("copy_source"),
            target_block=arena.address("copy_target"),
            count=arena.count_address(StepCount.NUM_BLOCK_COPIES),
            source_plane_stride=plane_bytes,
            target_plane_stride=plane_bytes,
            block_bytes=plane_bytes // first.shape[0],
            num_planes=2 * self.planes.shape[0],
        )


class CudaAttention:
    """`Attention` of a spec's layers over one cache, by the columns of the arena on the GPU."""

    prefills: bool = True
    """Whether a request of this step has more than one query token. A graph is captured with one answer."""

    def __init__(
        self,
        driver: Driver,
        kernels: Kernels,
        spec: DecoderSpec,
        cache: CudaCache,
        arena: DeviceArena,
        *,
        max_slots: int,
        max_model_len: int,
    ) -> None:
        self._kernels, self._spec, self._cache = kernels, spec, cache
        device = driver.device
        self._cos_sin = torch.from_numpy(cos_sin_table(spec.rope, max_model_len)).to(device)
        heads = (max_slots, spec.num_heads)
        self._partial_output = torch.empty((*heads, spec.head_dim), dtype=torch.float32, device=device)
        self._partial_log_sums = torch.empty(heads, dtype=torch.float32, device=device)
        self._writes = [self._write_call(layer, arena) for layer in range(spec.num_layers)]
        calls = [self._attention_call(layer, arena) for layer in range(spec.num_layers)]
        self._decodes, self._prefills = calls, [AttentionCall.from_buffer_copy(call) for call in calls]
        for decode, prefill in zip(self._decodes, self._prefills, strict=True):
            decode.work, prefill.work = arena.work_list("decode"), arena.work_list("prefill")

    def __call__(
        self, layer: int, qkv: torch.Tensor, query_norm: torch.Tensor | None, key_norm: torch.Tensor | None
    ) -> torch.Tensor:
        rows, kernels = qkv.shape[0], self._kernels
        write = self._writes[layer]
        write.qkv = qkv.data_ptr()
        write.query_norm = None if query_norm is None else query_norm.data_ptr()
        write.key_norm = None if key_norm is None else key_norm.data_ptr()
        kernels.kv_write.launch(-(-rows * (write.num_heads + 2 * write.num_kv_heads) // WRITE_HEADS), write)
        out = qkv.new_empty(rows, self._spec.query_size)
        call = self._decodes[layer]
        call.query, call.output = qkv.data_ptr(), out.data_ptr()
        kernels.decode.launch(kernels.decode.resident_blocks, call)
        if self.prefills:
            prefill = self._prefills[layer]
            prefill.query, prefill.output = call.query, call.output
            kernels.prefill.launch(kernels.prefill.resident_blocks, prefill)
        kernels.merge.launch(kernels.merge.resident_blocks, call)
        return out

    def _write_call(self, layer: int, arena: DeviceArena) -> KvWriteCall:
        spec, planes, scales = self._spec, self._cache.planes, self._cache.scales
        keys, values = planes[layer, 0], planes[layer, 1]
        return KvWriteCall(
            keys=keys.data_ptr(),
            values=values.data_ptr(),
            key_scales=None if scales is None else scales.data_ptr(),
            value_scales=None if scales is None else scales.data_ptr(),
            cos_sin=self._cos_sin.data_ptr(),
            positions=arena.address("positions"),
            slot_mapping=arena.address("slot_mapping"),
            num_tokens=arena.count_address(StepCount.NUM_TOKENS),
            qkv_stride=spec.query_size + 2 * spec.kv_size,
            block_stride=keys.stride(0),
            token_stride=keys.stride(1),
            head_stride=keys.stride(2),
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            rotary_dim=spec.rope.rotary_dim,
            page_shift=self._cache.block_size.bit_length() - 1,
            norm_eps=spec.norm_eps,
        )

    def _attention_call(self, layer: int, arena: DeviceArena) -> AttentionCall:
        spec, cache, write = self._spec, self._cache, self._writes[layer]
        return AttentionCall(
            keys=write.keys,
            values=write.values,
            key_scales=write.key_scales,
            value_scales=write.value_scales,
            partial_output=self._partial_output.data_ptr(),
            partial_log_sums=self._partial_log_sums.data_ptr(),
            block_table=cache.tables.data_ptr(),
            row=arena.address("row"),
            query_start=arena.address("query_start"),
            seq_len=arena.address("seq_len"),
            merges=arena.merge_list(),
            query_stride=write.qkv_stride,
            block_stride=write.block_stride,
            token_stride=write.token_stride,
            head_stride=write.head_stride,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            table_stride=cache.tables.stride(0),
            page_shift=write.page_shift,
            window=spec.windows[layer],
            scale=spec.attention_scale,
        )
