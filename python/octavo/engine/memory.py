"""The memory plan: what weights, workspace and KV cache take, known exactly before anything is loaded.

    plan_memory(config, checkpoint) -> MemoryPlan      from file headers alone, without torch

Everything but the KV cache has a fixed size; the KV cache gets what is left of the share, at most what
max_num_seqs requests of max_model_len tokens could ever fill, and on a CPU no more than DEFAULT_KV_BYTES unasked.
"""

from dataclasses import dataclass

import msgspec

from octavo._core import PagedKvCache
from octavo.config import EngineConfig
from octavo.engine.choice import ExecutorName, KvDtype, Step, choose, choose_pooling
from octavo.engine.gpu import device_for, gpu_choice
from octavo.engine.machine import available_memory, usable_cores
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint
from octavo.models.pooling import longest_prompt
from octavo.models.registry import encoder_for, spec_for
from octavo.models.spec import EncoderSpec, PoolerSpec

DEFAULT_BATCHED_TOKENS = 2048

LARGE_GPU_BYTES, LARGE_GPU_BATCHED_TOKENS = 32 << 30, 8192
"""A large GPU multiplies wider steps at no less speed, and has room for their activations."""

DEFAULT_KV_BYTES = 4 << 30
"""A computer's memory has other uses: more than this, or than one longest request, takes --kv-cache-memory-bytes."""


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes, lengths in tokens. Computed once, in the process that starts the engine."""

    device: str = "cpu"
    device_name: str = ""
    """Of a GPU."""
    executor: ExecutorName = "none"
    dtype: str = "float32"
    """How weights are kept: a float type, int8, int4, or the blocks of the file (Q4_1), where most are in these."""
    kv_dtype: KvDtype = "float32"
    threads: int = 1
    max_model_len: int
    max_num_batched_tokens: int
    block_size: int
    num_blocks: int
    block_bytes: int = 0
    """One block of keys and values over all layers."""
    kv_bytes: int = 0
    weights_bytes: int = 0
    workspace_bytes: int = 0
    """Activations, logits and rotary tables."""
    runtime_bytes: int = 0
    """What the process takes without a model."""
    available_bytes: int = 0
    """What the process could take when the plan was made."""

    def describe(self) -> str:
        """A few lines for the person who starts the server."""
        tokens = self.num_blocks * self.block_size
        blocks = f"{self.num_blocks:,} blocks of {self.block_size}"
        lines = [
            f"{self._place()}; {_size(self.available_bytes)} of memory available",
            f"  runtime    {_size(self.runtime_bytes):>10}",
            f"  weights    {_size(self.weights_bytes):>10}  {self.dtype}",
            f"  workspace  {_size(self.workspace_bytes):>10}  {self.max_num_batched_tokens:,} tokens a step",
        ]
        if not self.kv_bytes:
            return "\n".join([*lines, f"  prompts of up to {self.max_model_len:,} tokens, which need no KV cache"])
        lines += [
            f"  KV cache   {_size(self.kv_bytes):>10}  {self.kv_dtype}, {blocks}: {tokens:,} tokens",
            f"  requests of up to {self.max_model_len:,} tokens; {tokens / self.max_model_len:.1f} such fit the cache",
        ]
        return "\n".join(lines)

    def _place(self) -> str:
        if self.device == "cuda":
            return f"{self.executor} executor with CUDA kernels on one {self.device_name}"
        return f"{self.executor} executor on the {self.device}, {self.threads} threads"


@dataclass(frozen=True, kw_only=True)
class Room:
    """A device's memory, in bytes."""

    total: int
    """What --gpu-memory-utilization is a share of: all of a GPU; of a computer, what is available."""
    available: int
    fixed: int
    """Taken by everything but the KV cache."""
    is_gpu: bool


def plan_memory(config: EngineConfig, checkpoint: Checkpoint, pooler: PoolerSpec | None = None) -> MemoryPlan:
    """Raises ModelError for a model or option that is not supported, and when the model or one request does not fit.

    `pooler`: of a model that pools prompts, which runs on the CPU.
    """
    if pooler is not None:
        if config.device.device == "cuda":
            raise ModelError("--device cuda: models that pool prompts run on the CPU in this version")
        encoder = encoder_for(checkpoint.config)
        if encoder is not None:
            return _plan_encoder(config, encoder, pooler, checkpoint)
    spec = spec_for(checkpoint.config)
    gpu = device_for(config, spec) if pooler is None else None
    max_model_len = _model_length(config, checkpoint, None if pooler is None else longest_prompt(checkpoint))
    is_large = gpu is not None and gpu.total_bytes >= LARGE_GPU_BYTES
    default_tokens = LARGE_GPU_BATCHED_TOKENS if is_large else DEFAULT_BATCHED_TOKENS
    max_tokens = resolve_batched_tokens(config, max_model_len, default_tokens)
    max_seqs, block_size = config.scheduler.max_num_seqs, config.cache.block_size
    step = Step(max_tokens=max_tokens, max_samples=max_seqs, max_model_len=max_model_len)
    if gpu is None:
        if pooler is None:
            choice = choose(config, spec, checkpoint, step)
        else:
            choice = choose_pooling(config, spec, pooler, checkpoint, step)
        block_bytes = PagedKvCache.block_bytes(
            num_layers=spec.num_layers,
            block_size=block_size,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            dtype=choice.kv_dtype,
        )
        available = total = available_memory()
    else:
        choice = gpu_choice(config, spec, checkpoint, step)
        block_bytes = 2 * spec.num_layers * block_size * spec.kv_size * (1 if choice.kv_dtype == "fp8" else 2)
        available, total = gpu.free_bytes, gpu.total_bytes
    room = Room(total=total, available=available, fixed=choice.fixed_bytes, is_gpu=gpu is not None)
    num_blocks = _num_blocks(config, max_model_len, block_bytes, room)
    max_model_len = _fit_length(config, max_model_len, num_blocks, block_bytes)
    return MemoryPlan(
        device="cpu" if gpu is None else "cuda",
        device_name="" if gpu is None else gpu.name,
        executor=choice.executor,
        dtype=choice.dtype,
        kv_dtype=choice.kv_dtype,
        threads=config.device.cpu_threads or usable_cores(),
        max_model_len=max_model_len,
        max_num_batched_tokens=max_tokens,
        block_size=block_size,
        num_blocks=num_blocks,
        block_bytes=block_bytes,
        kv_bytes=num_blocks * block_bytes,
        runtime_bytes=choice.runtime_bytes,
        weights_bytes=choice.weights_bytes,
        workspace_bytes=choice.workspace_bytes,
        available_bytes=available,
    )


def resolve_batched_tokens(config: EngineConfig, max_model_len: int, default: int = DEFAULT_BATCHED_TOKENS) -> int:
    """The step's token budget. ModelError when it contradicts max_num_seqs, or a whole prompt has no room."""
    scheduler = config.scheduler
    tokens = scheduler.max_num_batched_tokens
    if tokens is None:
        whole = 0 if scheduler.enable_chunked_prefill else max_model_len
        return max(default, scheduler.max_num_seqs, whole)
    if tokens < scheduler.max_num_seqs:
        raise ModelError(
            f"--max-num-batched-tokens {tokens} is less than --max-num-seqs {scheduler.max_num_seqs}: "
            "every running request needs one token a step"
        )
    if not scheduler.enable_chunked_prefill and tokens < max_model_len:
        raise ModelError(
            f"--max-num-batched-tokens {tokens} is less than the {max_model_len} tokens of --max-model-len, "
            "which --no-enable-chunked-prefill needs"
        )
    return tokens


def _plan_encoder(config: EngineConfig, spec: EncoderSpec, pooler: PoolerSpec, checkpoint: Checkpoint) -> MemoryPlan:
    """An encoder takes prompts whole, and keeps nothing of them: a block is the place of one prompt in a step."""
    max_model_len = _model_length(config, checkpoint, longest_prompt(checkpoint))
    max_seqs, max_tokens = config.scheduler.max_num_seqs, config.scheduler.max_num_batched_tokens
    if max_tokens is None:
        max_tokens = max(DEFAULT_BATCHED_TOKENS, max_seqs, max_model_len)
    if max_tokens < max(max_seqs, max_model_len):
        raise ModelError(
            f"--max-num-batched-tokens {max_tokens} is less than "
            f"--max-model-len {max_model_len} or --max-num-seqs {max_seqs}: an encoder takes each prompt whole"
        )
    step = Step(max_tokens=max_tokens, max_samples=max_seqs, max_model_len=max_model_len)
    choice = choose_pooling(config, spec, pooler, checkpoint, step)
    available = available_memory()
    if choice.fixed_bytes > available:
        raise ModelError(
            f"the model needs {_size(choice.fixed_bytes)}, and {_size(available)} of memory are available; "
            "free memory, or lower --max-num-batched-tokens"
        )
    return MemoryPlan(
        executor=choice.executor,
        dtype=choice.dtype,
        threads=config.device.cpu_threads or usable_cores(),
        max_model_len=max_model_len,
        max_num_batched_tokens=max_tokens,
        block_size=max_model_len,
        num_blocks=max_seqs,
        runtime_bytes=choice.runtime_bytes,
        weights_bytes=choice.weights_bytes,
        workspace_bytes=choice.workspace_bytes,
        available_bytes=available,
    )


def _model_length(config: EngineConfig, checkpoint: Checkpoint, usual: int | None = None) -> int:
    """What was asked for, or `usual`, or what the model was made for."""
    asked, limit = config.model.max_model_len, checkpoint.max_model_len
    if asked is not None and asked > limit:
        raise ModelError(f"--max-model-len {asked} is more than the {limit} tokens that the model was made for")
    return asked or min(limit, usual or limit)


def _num_blocks(config: EngineConfig, max_model_len: int, block_bytes: int, room: Room) -> int:
    """Blocks of the KV cache: the override, the given bytes, or the rest of the share up to what could be used."""
    cache = config.cache
    share = min(int(cache.gpu_memory_utilization * room.total), room.available)
    if cache.num_gpu_blocks_override is not None:
        num_blocks = cache.num_gpu_blocks_override
    elif cache.kv_cache_memory_bytes is not None:
        num_blocks = cache.kv_cache_memory_bytes // block_bytes
    else:
        longest = _blocks_for(max_model_len, cache.block_size)
        num_blocks = min(config.scheduler.max_num_seqs * longest, (share - room.fixed) // block_bytes)
        if not room.is_gpu:
            num_blocks = min(num_blocks, max(longest, DEFAULT_KV_BYTES // block_bytes))
        if num_blocks < 1:
            raise ModelError(
                f"the model needs {_size(room.fixed)} before any KV cache, and --gpu-memory-utilization "
                f"{cache.gpu_memory_utilization} gives it {_size(share)} of {_size(room.total)}; "
                "free memory, raise that share, or lower --max-num-batched-tokens"
            )
    if num_blocks < 1:
        raise ModelError(
            f"--kv-cache-memory-bytes {cache.kv_cache_memory_bytes} is less than one block, {block_bytes} bytes"
        )
    if room.fixed + num_blocks * block_bytes > room.available:
        raise ModelError(
            f"{_size(room.fixed)} for runtime, weights and workspace and {_size(num_blocks * block_bytes)} of KV cache "
            f"do not fit the {_size(room.available)} of memory available; lower --kv-cache-memory-bytes"
        )
    return num_blocks


def _fit_length(config: EngineConfig, max_model_len: int, num_blocks: int, block_bytes: int) -> int:
    """max_model_len, cut to the KV cache unless the user asked for it."""
    block_size = config.cache.block_size
    fits = num_blocks * block_size
    if max_model_len <= fits:
        return max_model_len
    if config.model.max_model_len is None:
        return fits
    needed = _blocks_for(max_model_len, block_size) * block_bytes
    raise ModelError(
        f"one request of --max-model-len {max_model_len} needs {_size(needed)} of KV cache and "
        f"{_size(num_blocks * block_bytes)} are planned; use --max-model-len {fits} or less, or more KV cache: "
        f"--kv-cache-memory-bytes {needed}, or a larger --gpu-memory-utilization"
    )


def _blocks_for(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)


def _size(value: int) -> str:
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
