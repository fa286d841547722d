"""The native executor of encoders: loads one into Rust, which runs each step whole and pools it; imports no torch."""

from typing import Any

from octavo._core import CpuKernels, Engine, NativeEncoder, Plan, PoolerOptions
from octavo.backends.base import HostBackend, bind_arenas
from octavo.engine.start import EngineStart
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint
from octavo.models.native_weights import load_pooling, random_native
from octavo.models.pooled_layout import pooled_layout
from octavo.models.registry import encoder_for
from octavo.models.spec import EncoderSpec, PoolerSpec


class EncoderExecutor(HostBackend):
    """A `Backend` on the CPU. Keeps nothing of the checkpoint: the mapped file is let go with it."""

    logits_processors = None

    def __init__(self, start: EngineStart, checkpoint: Checkpoint, pooler: PoolerSpec) -> None:
        """Loads the weights, with a progress bar. ModelError when they do not fit the config."""
        memory, model = start.memory, start.config.model
        spec = encoder_for(checkpoint.config)
        if spec is None:
            raise ModelError(f"{model.model} is no encoder")
        self._kernels = CpuKernels(memory.threads)
        self._encoder = native_encoder(self._kernels, spec, pooler, max_num_tokens=memory.max_num_batched_tokens)
        layout = pooled_layout(spec, pooler, [name for name, _ in checkpoint.tensors()])
        if model.load_format == "dummy":
            random_native(self._encoder, layout.parameters, model, memory.dtype)
        else:
            load_pooling(self._encoder, layout, checkpoint, model)
        self._engine: Engine | None = None

    @property
    def info(self) -> dict[str, Any]:
        return {"isa": self._kernels.isa}

    def bind(self, engine: Engine) -> None:
        bind_arenas(engine)
        self._engine = engine

    def execute(self, plan: Plan) -> None:
        if self._engine is None:
            raise RuntimeError("execute before bind")
        self._encoder.step(self._engine, plan.epoch)


def native_encoder(kernels: CpuKernels, spec: EncoderSpec, pooler: PoolerSpec, *, max_num_tokens: int) -> NativeEncoder:
    """An encoder of `spec` without its weights."""
    return NativeEncoder(
        kernels,
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        intermediate_size=spec.intermediate_size,
        max_positions=spec.max_positions,
        num_types=spec.num_types,
        norm_eps=spec.norm_eps,
        pooler=pooler_options(pooler),
        max_num_tokens=max_num_tokens,
    )


def pooler_options(pooler: PoolerSpec) -> PoolerOptions:
    return PoolerOptions(
        kind=pooler.kind,
        normalize=pooler.normalize,
        dense=pooler.dense,
        num_labels=pooler.num_labels,
        activation=pooler.activation,
    )
