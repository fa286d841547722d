"""The native executor: loads a model into Rust, which runs each step whole; imports no torch."""

from dataclasses import replace
from typing import Any

import numpy as np

from octavo._core import CpuKernels, Engine, NativeDecoder, PagedKvCache, Plan
from octavo.backends.base import HostBackend, bind_arenas
from octavo.engine.executor.cache import paged_kv_cache
from octavo.engine.executor.encoder import pooler_options
from octavo.engine.logits_processors import LogitsProcessors
from octavo.engine.start import EngineStart
from octavo.models.checkpoint import Checkpoint
from octavo.models.layout import parameters
from octavo.models.native_weights import load_native, load_pooling, random_native
from octavo.models.pooled_layout import pooled_layout
from octavo.models.registry import spec_for
from octavo.models.rope import cos_sin_table
from octavo.models.spec import DecoderSpec, PoolerSpec


class NativeExecutor(HostBackend):
    """A `Backend` on the CPU. Keeps nothing of the checkpoint: the mapped file is let go with it."""

    def __init__(self, start: EngineStart, checkpoint: Checkpoint) -> None:
        """Loads the weights, with a progress bar. ModelError when they do not fit the config."""
        memory, model = start.memory, start.config.model
        spec, pooler = spec_for(checkpoint.config), start.pooler
        if pooler is not None:
            spec = replace(spec, tied_head=True)  # it has no head
        self._spec = spec
        self._memory, self._max_num_seqs = memory, start.config.scheduler.max_num_seqs
        self._kernels = CpuKernels(memory.threads)
        self._decoder = native_decoder(
            self._kernels,
            spec,
            max_model_len=memory.max_model_len,
            max_num_tokens=memory.max_num_batched_tokens,
            max_num_seqs=self._max_num_seqs,
            pooler=pooler,
        )
        layout = None
        if pooler is not None:
            layout = pooled_layout(spec, pooler, [name for name, _ in checkpoint.tensors()])
        if model.load_format == "dummy":
            found = parameters(spec) if layout is None else layout.parameters
            random_native(self._decoder, found, model, memory.dtype)
        elif layout is not None:
            load_pooling(self._decoder, layout, checkpoint, model)
        else:
            load_native(self._decoder, spec, checkpoint, model)
        self.logits_processors = LogitsProcessors()
        self._engine: Engine | None = None
        self._cache: PagedKvCache | None = None

    @property
    def info(self) -> dict[str, Any]:
        return {"isa": self._kernels.isa}

    def bind(self, engine: Engine) -> None:
        spec, memory = self._spec, self._memory
        bind_arenas(engine)
        self._cache = paged_kv_cache(self._kernels, spec, memory, engine, max_num_seqs=self._max_num_seqs)
        self._engine = engine

    def execute(self, plan: Plan) -> None:
        if self._engine is None or self._cache is None:
            raise RuntimeError("execute before bind")
        if not plan.num_processed:
            self._decoder.step(self._engine, plan.epoch, self._cache)
            return
        logits = np.empty((plan.num_samples, self._spec.vocab_size), dtype=np.float32)
        self._decoder.step_logits(self._engine, plan.epoch, self._cache, logits)
        self.logits_processors.apply(self._engine, plan.epoch, logits)
        self._kernels.sample(self._engine, plan.epoch, logits)


def native_decoder(
    kernels: CpuKernels,
    spec: DecoderSpec,
    *,
    max_model_len: int,
    max_num_tokens: int,
    max_num_seqs: int,
    pooler: PoolerSpec | None = None,
) -> NativeDecoder:
    """A decoder of `spec` without its weights."""
    return NativeDecoder(
        kernels,
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.intermediate_size,
        norm_eps=spec.norm_eps,
        qk_norm=spec.qk_norm,
        windows=spec.windows,
        attention_scale=spec.attention_scale,
        tied_head=spec.tied_head,
        max_num_tokens=max_num_tokens,
        max_num_seqs=max_num_seqs,
        cos_sin=cos_sin_table(spec.rope, max_model_len),
        pooler=None if pooler is None else pooler_options(pooler),
    )
