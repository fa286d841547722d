"""What the kernels take: the structures of the sources in cuda/, field by field in the same order.

The sources say what each field is. Pointers are addresses on the device; 0 is null.

AttentionCall    cuda/attention.cuh
KvWriteCall      cuda/kv_write.cu
NormCall, GatedCall, Activation    cuda/norm_act.cu
StepCount        cuda/step.cuh
UpdateRowsCall   cuda/update_rows.cu
BlockCopyCall    cuda/block_copy.cu
PenaltyState     cuda/penalties.cuh
SamplingCall     cuda/sampling.cu
CountTokensCall  cuda/count_tokens.cu
Int4GemmCall     cuda/gemm_w4a16.cu
ExpertTiles      cuda/moe.cuh
RouteCall, Scoring, SortCall, CombineCall    cuda/moe_routing.cu
ExpertProductCall    cuda/moe_product.cu
"""

import ctypes
from enum import IntEnum


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


class NormCall(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("quantised", ctypes.c_void_p),
        ("row_scales", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("num_rows", ctypes.c_int32),
        ("hidden_size", ctypes.c_int32),
        ("eps", ctypes.c_float),
        ("weight_offset", ctypes.c_float),
        ("initialise", ctypes.c_int32),
    )


class GatedCall(ctypes.Structure):
    _fields_ = (
        ("gate_up", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("quantised", ctypes.c_void_p),
        ("row_scales", ctypes.c_void_p),
        ("gate_up_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("num_rows", ctypes.c_int32),
        ("intermediate_size", ctypes.c_int32),
        ("activation", ctypes.c_int32),
    )


class Activation(IntEnum):
    SILU = 0
    GELU_TANH = 1
    GELU_ERF = 2


class StepCount(IntEnum):
    NUM_REQS = 0
    NUM_TOKENS = 1
    NUM_SAMPLES = 2
    NUM_TABLE_DELTAS = 3
    NUM_BLOCK_COPIES = 4
    NUM_DECODE_ITEMS = 5
    NUM_PREFILL_ITEMS = 6
    NUM_MERGES = 7
    NUM_HISTORIES = 8


class UpdateRowsCall(ctypes.Structure):
    _fields_ = (
        ("counts", ctypes.c_void_p),
        ("delta_row", ctypes.c_void_p),
        ("delta_column", ctypes.c_void_p),
        ("delta_block", ctypes.c_void_p),
        ("input_ids", ctypes.c_void_p),
        ("last_token", ctypes.c_void_p),
        ("block_table", ctypes.c_void_p),
        ("tokens", ctypes.c_void_p),
        ("table_stride", ctypes.c_int32),
        ("num_padded_tokens", ctypes.c_int32),
    )


class BlockCopyCall(ctypes.Structure):
    _fields_ = (
        ("source", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("source_block", ctypes.c_void_p),
        ("target_block", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
        ("source_plane_stride", ctypes.c_int64),
        ("target_plane_stride", ctypes.c_int64),
        ("block_bytes", ctypes.c_int64),
        ("num_planes", ctypes.c_int32),
    )


class PenaltyState(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("presence", "frequency", "repetition", "output_counts", "prompt_tokens")
    )


class SamplingCall(ctypes.Structure):
    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("num_samples", ctypes.c_void_p),
        ("temperature", ctypes.c_void_p),
        ("top_k", ctypes.c_void_p),
        ("top_p", ctypes.c_void_p),
        ("min_p", ctypes.c_void_p),
        ("seed", ctypes.c_void_p),
        ("choice", ctypes.c_void_p),
        ("draw_step", ctypes.c_void_p),
        ("sample_row", ctypes.c_void_p),
        ("host_sample", ctypes.c_void_p),
        ("sampled", ctypes.c_void_p),
        ("last_token", ctypes.c_void_p),
        ("sampled_logprob", ctypes.c_void_p),
        ("sampled_rank", ctypes.c_void_p),
        ("top_ids", ctypes.c_void_p),
        ("top_logprobs", ctypes.c_void_p),
        ("num_logprobs", ctypes.c_void_p),
        ("penalties", PenaltyState),
        ("logits_stride", ctypes.c_int64),
        ("vocab_size", ctypes.c_int32),
        ("max_logprobs", ctypes.c_int32),
    )


class CountTokensCall(ctypes.Structure):
    _fields_ = (
        ("num_items", ctypes.c_void_p),
        ("row", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("first_token", ctypes.c_void_p),
        ("num_prompt", ctypes.c_void_p),
        ("tokens", ctypes.c_void_p),
        ("penalties", PenaltyState),
        ("vocab_size", ctypes.c_int32),
    )


class Int4GemmCall(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("partial_sums", ctypes.c_void_p),
        ("num_arrived", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("num_rows", ctypes.c_int32),
        ("num_inputs", ctypes.c_int32),
        ("num_outputs", ctypes.c_int32),
        ("group_size", ctypes.c_int32),
        ("num_splits", ctypes.c_int32),
    )


class ExpertTiles(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("num_tiles", "expert", "pair"))


class Scoring(IntEnum):
    SOFTMAX = 0
    SIGMOID = 1


class RouteCall(ctypes.Structure):
    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("experts", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("num_tokens", ctypes.c_void_p),
        ("logits_stride", ctypes.c_int64),
        ("num_experts", ctypes.c_int32),
        ("top_k", ctypes.c_int32),
        ("scoring", ctypes.c_int32),
        ("renormalise", ctypes.c_int32),
        ("num_groups", ctypes.c_int32),
        ("top_groups", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class SortCall(ctypes.Structure):
    _fields_ = (
        ("experts", ctypes.c_void_p),
        ("num_tokens", ctypes.c_void_p),
        ("tiles", ExpertTiles),
        ("num_experts", ctypes.c_int32),
        ("top_k", ctypes.c_int32),
    )


class CombineCall(ctypes.Structure):
    _fields_ = (
        ("pairs", ctypes.c_void_p),
        ("experts", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("num_tokens", ctypes.c_void_p),
        ("out_stride", ctypes.c_int64),
        ("num_experts", ctypes.c_int32),
        ("top_k", ctypes.c_int32),
        ("hidden_size", ctypes.c_int32),
    )


class ExpertProductCall(ctypes.Structure):
    _fields_ = (
        ("input", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("tiles", ExpertTiles),
        ("input_stride", ctypes.c_int64),
        ("output_stride", ctypes.c_int64),
        ("in_features", ctypes.c_int32),
        ("out_features", ctypes.c_int32),
        ("pairs_per_input", ctypes.c_int32),
    )
