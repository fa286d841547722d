"""The kernels of one model, loaded: which variants it needs, and how many blocks each is launched with."""

from dataclasses import dataclass

from octavo.backends.cuda.driver import Driver, Kernel
from octavo.backends.cuda.variants import Element, attention, norm_act, only, sampling
from octavo.models.spec import DecoderSpec

ELEMENTS: dict[str, Element] = {"bfloat16": "Bfloat16", "float16": "Float16", "fp8": "Float8"}
"""By the names that options use."""


@dataclass(frozen=True)
class Kernels:
    decode: Kernel
    prefill: Kernel
    merge: Kernel
    kv_write: Kernel
    rms_norm: Kernel
    add_rms_norm: Kernel
    gated_act: Kernel
    update_rows: Kernel
    copy_blocks: Kernel
    sample: Kernel
    count_tokens: Kernel
    prefill_tile_rows: int
    """Pairs of a query token and a head of its group, in one item of work."""


def load_kernels(driver: Driver, spec: DecoderSpec, dtype: str, kv_dtype: str) -> Kernels:
    """`dtype` is bfloat16 or float16, `kv_dtype` the same or fp8. CompileError when a kernel cannot be made."""
    query, cache, dim = ELEMENTS[dtype], ELEMENTS[kv_dtype], spec.head_dim
    decode, prefill, merge, kv_write, norms, update_rows, block_copy, samples, histories = driver.load(
        [
            attention("paged_decode", dim, query, cache),
            attention("paged_prefill", dim, query, cache),
            attention("attention_merge", dim, query, query),
            attention("kv_write", dim, query, cache),
            norm_act(query, query),
            only("update_rows"),
            only("block_copy"),
            sampling(),
            only("count_tokens"),
        ]
    )
    return Kernels(
        decode=decode.kernel("paged_decode"),
        prefill=prefill.kernel("paged_prefill"),
        merge=merge.kernel("attention_merge"),
        kv_write=kv_write.kernel("kv_write"),
        rms_norm=norms.kernel("rms_norm"),
        add_rms_norm=norms.kernel("add_rms_norm"),
        gated_act=norms.kernel("gated_act"),
        update_rows=update_rows.kernel("update_rows"),
        copy_blocks=block_copy.kernel("copy_blocks"),
        sample=samples.kernel("sample"),
        count_tokens=histories.kernel("count_tokens"),
        prefill_tile_rows=prefill.constant("prefill_tile_rows"),
    )
