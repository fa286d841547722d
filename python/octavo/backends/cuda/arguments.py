"""What the kernels take: the structures of the sources in cuda/, field by field in the same order.

The sources say what each field is. Pointers are addresses on the device; 0 is null.

AttentionCall    cuda/attention.cuh
KvWriteCall      cuda/kv_write.cu
"""

import ctypes


class WorkList(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("count", "entry", "first_row", "kv_begin", "kv_end", "slot"))


class MergeList(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("count", "token", "first_slot", "num_slots", "slot_stride"))


class AttentionCall(ctypes.Structure):
    _fields_ = (
        ("query", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("key_scales", ctypes.c_void_p),
        ("value_scales", ctypes.c_void_p),
        ("sinks", ctypes.c_void_p),
        ("log_sums", ctypes.c_void_p),
        ("partial_output", ctypes.c_void_p),
        ("partial_log_sums", ctypes.c_void_p),
        ("block_table", ctypes.c_void_p),
        ("row", ctypes.c_void_p),
        ("query_start", ctypes.c_void_p),
        ("seq_len", ctypes.c_void_p),
        ("work", WorkList),
        ("merges", MergeList),
        ("query_stride", ctypes.c_int64),
        ("block_stride", ctypes.c_int64),
        ("token_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("num_heads", ctypes.c_int32),
        ("num_kv_heads", ctypes.c_int32),
        ("table_stride", ctypes.c_int32),
        ("page_shift", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("soft_cap", ctypes.c_float),
    )


class KvWriteCall(ctypes.Structure):
    _fields_ = (
        ("qkv", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("key_scales", ctypes.c_void_p),
        ("value_scales", ctypes.c_void_p),
        ("query_norm", ctypes.c_void_p),
        ("key_norm", ctypes.c_void_p),
        ("cos_sin", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("slot_mapping", ctypes.c_void_p),
        ("num_tokens", ctypes.c_void_p),
        ("qkv_stride", ctypes.c_int64),
        ("block_stride", ctypes.c_int64),
        ("token_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("num_heads", ctypes.c_int32),
        ("num_kv_heads", ctypes.c_int32),
        ("rotary_dim", ctypes.c_int32),
        ("page_shift", ctypes.c_int32),
        ("interleaved", ctypes.c_int32),
        ("norm_eps", ctypes.c_float),
    )
