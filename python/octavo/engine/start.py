"""What an engine needs to know, decided once: the model is found, its headers are read, its memory is planned.

prepare(config) -> Prepared      torch-free, in the process that starts the engine
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from octavo.config import EngineConfig, ModelConfig
from octavo.engine.memory import MemoryPlan, plan_memory, resolve_batched_tokens
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, open_checkpoint
from octavo.models.folder import read_json
from octavo.models.pooling import pooler_for
from octavo.models.source import resolve
from octavo.models.spec import PoolerSpec

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
    pooler: PoolerSpec | None = None
    """Of a model that pools prompts; None: it generates text."""


@dataclass(frozen=True)
class Prepared:
    start: EngineStart
    checkpoint: Checkpoint | None
    """None without a model."""
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of sampling, in the form of a generation_config.json."""

    @property
    def pooling(self) -> frozenset[str]:
        """Tasks of a model that pools prompts, as `_core.Pooling` names them; empty: it generates text."""
        return frozenset() if self.start.pooler is None else frozenset(self.start.pooler.tasks)


def prepare(config: EngineConfig) -> Prepared:
    """Finds the model, reads its headers, and plans the memory. Imports no torch. Raises ModelError."""
    if config.backend == "null" and config.model.model == NO_MODEL:
        memory = _null_memory(config, DEFAULT_MODEL_LEN)
        return Prepared(EngineStart(config=config, memory=memory, vocab_size=32_000, eos_token_ids=()), None)
    checkpoint = open_model(config)
    is_null = config.backend == "null"
    pooler = None if is_null else pooler_for(config.model, checkpoint)
    start = EngineStart(
        config=config,
        memory=_null_memory(config, checkpoint.max_model_len) if is_null else plan_memory(config, checkpoint, pooler),
        vocab_size=checkpoint.config["vocab_size"],
        eos_token_ids=checkpoint.eos_token_ids,
        pooler=pooler,
    )
    return Prepared(start, checkpoint, generation_config(config.model, checkpoint))


def open_model(config: EngineConfig) -> Checkpoint:
    """Finds the model, and its tokenizer where that comes from elsewhere. Raises ModelError."""
    model = config.model
    source = resolve(model.model, revision=model.revision, token=model.hf_token, load_format=model.load_format)
    tokenizer = None if model.tokenizer is None else resolve(model.tokenizer, token=model.hf_token, weights=False)
    return open_checkpoint(source, tokenizer=tokenizer)


def generation_config(model: ModelConfig, checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What `--generation-config` names, and `--override-generation-config` above it. Raises ModelError."""
    match model.generation_config:
        case "auto":
            found = checkpoint.generation_config
        case "vllm":
            found = {}
        case place:
            path = Path(place)
            file = path / "generation_config.json" if path.is_dir() else path
            if not file.is_file():
                raise ModelError(f"--generation-config: there is no {file}")
            found = read_json(file)
    return {**found, **model.override_generation_config}


def _null_memory(config: EngineConfig, longest: int) -> MemoryPlan:
    max_model_len = config.model.max_model_len or longest
    return MemoryPlan(
        device="none",
        max_model_len=max_model_len,
        max_num_batched_tokens=resolve_batched_tokens(config, max_model_len),
        block_size=config.cache.block_size,
        num_blocks=config.cache.num_gpu_blocks_override or DEFAULT_NULL_BLOCKS,
    )
