"""From an `EngineStart` to an engine that serves: the same in the engine process and in `LLM`."""

import json
import time

from octavo._core import Endpoint, Engine, PoolingLimits, Tokenizer
from octavo.backends.base import Backend
from octavo.backends.null import NullBackend
from octavo.engine.executor.encoder import EncoderExecutor
from octavo.engine.executor.native import NativeExecutor
from octavo.engine.start import NO_MODEL, EngineStart, open_model
from octavo.models.registry import encoder_for
from octavo.models.spec import PoolerSpec


def build_engine(start: EngineStart, endpoint: Endpoint) -> tuple[Engine, Backend]:
    """Loads the model and reports ready. ModelError when it cannot be loaded, ValueError for contradicting limits."""
    began = time.monotonic()
    config, memory = start.config, start.memory
    backend = _build_backend(start)
    # A block is the place of one prompt of an encoder, which has no cache.
    chunks = memory.kv_bytes > 0 or start.pooler is None
    engine = Engine(
        endpoint,
        num_blocks=memory.num_blocks,
        block_size=memory.block_size,
        max_num_seqs=config.scheduler.max_num_seqs,
        max_num_batched_tokens=memory.max_num_batched_tokens,
        max_model_len=memory.max_model_len,
        vocab_size=start.vocab_size,
        eos_token_ids=start.eos_token_ids,
        enable_prefix_caching=config.cache.enable_prefix_caching and chunks,
        enable_chunked_prefill=config.scheduler.enable_chunked_prefill and chunks,
        policy=config.scheduler.policy,
        max_num_queued_reqs=config.scheduler.max_num_queued_reqs,
        long_prefill_token_threshold=config.scheduler.long_prefill_token_threshold,
        max_logprobs=start.vocab_size if config.scheduler.max_logprobs == -1 else config.scheduler.max_logprobs,
        seed=config.model.seed,
        device_work=backend.device_work,
        async_decode=backend.steps_ahead > 0,
        open_tokenizer=lambda: _open_tokenizer(start),
        pooling=None if start.pooler is None else _limits(start.pooler),
    )
    backend.bind(engine)
    info = {
        "max_model_len": memory.max_model_len,
        "num_blocks": memory.num_blocks,
        "block_size": memory.block_size,
        "executor": memory.executor,
        "dtype": memory.dtype,
        "kv_dtype": memory.kv_dtype,
        "device": memory.device,
        "backend": config.backend,
        "kv_cache_bytes": memory.kv_bytes,
        "weights_bytes": memory.weights_bytes,
        "threads": memory.threads,
        **backend.info,
        "load_seconds": round(time.monotonic() - began, 3),
    }
    engine.ready(json.dumps(info))
    return engine, backend


def _open_tokenizer(start: EngineStart) -> Tokenizer | None:
    """Apart from the one of the front end, which may be another process."""
    return None if start.config.model.model == NO_MODEL else open_model(start.config).tokenizer()


def _limits(pooler: PoolerSpec) -> PoolingLimits:
    return PoolingLimits(tasks=pooler.tasks, whole=pooler.whole, width=pooler.width, num_labels=pooler.num_labels)


def _build_backend(start: EngineStart) -> Backend:
    if start.config.backend == "null":
        # The middle of a vocabulary holds ordinary text, its ends hold control tokens.
        middle = start.vocab_size // 2
        token = next(token for token in range(middle, middle + 64) if token not in start.eos_token_ids)
        return NullBackend(token, start.config.null_step_seconds)
    checkpoint = open_model(start.config)
    if start.pooler is not None and encoder_for(checkpoint.config) is not None:
        return EncoderExecutor(start, checkpoint, start.pooler)
    if start.memory.executor == "native":
        return NativeExecutor(start, checkpoint)
    if start.memory.device == "cuda":
        from octavo.engine.executor.cuda import CudaExecutor

        return CudaExecutor(start, checkpoint)
    from octavo.engine.executor.torch import TorchExecutor  # torch takes seconds, and only the engine may import it

    return TorchExecutor(start, checkpoint)
