"""What an engine needs to know, decided once: the model is found, its headers are read, its memory is planned.

prepare(config) -> Prepared      torch-free, in the process that starts the engine
"""

from dataclasses import dataclass

import msgspec

from octavo.config import EngineConfig
from octavo.engine.memory import MemoryPlan, plan_memory, resolve_batched_tokens
from octavo.models.checkpoint import Checkpoint, open_checkpoint
from octavo.models.source import resolve

NO_MODEL = "null"
"""As the name of the model, with the null backend: no tokenizer either."""

DEFAULT_MODEL_LEN = 4096
DEFAULT_NULL_BLOCKS = 16_384
"""Of the null backend, which has no memory to fill."""


class EngineStart(msgspec.Struct, frozen=True, kw_only=True):
    """All that an engine needs to know; decided once, in the process that starts it."""

    config: EngineConfig
    memory: MemoryPlan
    vocab_size: int
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    start: EngineStart
    checkpoint: Checkpoint | None
    """None without a model."""


def prepare(config: EngineConfig) -> Prepared:
    """Finds the model, reads its headers, and plans the memory. Imports no torch. Raises ModelError."""
    if config.backend == "null" and config.model.model == NO_MODEL:
        memory = _null_memory(config, DEFAULT_MODEL_LEN)
        return Prepared(EngineStart(config=config, memory=memory, vocab_size=32_000, eos_token_ids=()), None)
    checkpoint = open_model(config)
    start = EngineStart(
        config=config,
        memory=_null_memory(config, checkpoint.max_model_len)
        if config.backend == "null"
        else plan_memory(config, checkpoint),
        vocab_size=checkpoint.config["vocab_size"],
        eos_token_ids=checkpoint.eos_token_ids,
    )
    return Prepared(start, checkpoint)


def open_model(config: EngineConfig) -> Checkpoint:
    """Finds the model, and its tokenizer where that comes from elsewhere. Raises ModelError."""
    model = config.model
    source = resolve(model.model, revision=model.revision, token=model.hf_token, load_format=model.load_format)
    tokenizer = None if model.tokenizer is None else resolve(model.tokenizer, token=model.hf_token, weights=False)
    return open_checkpoint(source, tokenizer=tokenizer)


def _null_memory(config: EngineConfig, longest: int) -> MemoryPlan:
    max_model_len = config.model.max_model_len or longest
    return MemoryPlan(
        device="none",
        max_model_len=max_model_len,
        max_num_batched_tokens=resolve_batched_tokens(config, max_model_len),
        block_size=config.cache.block_size,
        num_blocks=config.cache.num_gpu_blocks_override or DEFAULT_NULL_BLOCKS,
    )
