"""The torch executor: loads a model, and runs the engine's steps on it."""

from typing import Any, cast

import torch

from octavo._core import CpuKernels, Engine, Plan
from octavo.backends.base import HostBackend
from octavo.backends.cpu import CpuAttention, CpuOps
from octavo.engine.executor.cache import paged_kv_cache
from octavo.engine.logits_processors import LogitsProcessors
from octavo.engine.runner import Runner
from octavo.engine.start import EngineStart
from octavo.models.checkpoint import Checkpoint
from octavo.models.decoder import Decoder
from octavo.models.layout import Dtype
from octavo.models.registry import spec_for
from octavo.models.weights import load_parameters, random_parameters


class TorchExecutor(HostBackend):
    """A `Backend` on the CPU. torch and the kernels have a pool each, of the same size, and take turns."""

    def __init__(self, start: EngineStart, checkpoint: Checkpoint) -> None:
        """Loads the weights, with a progress bar. ModelError when they do not fit the config."""
        memory, model = start.memory, start.config.model
        self._memory, self._max_num_seqs = memory, start.config.scheduler.max_num_seqs
        torch.set_num_threads(memory.threads)
        self._kernels = CpuKernels(memory.threads)
        spec, dtype = spec_for(checkpoint.config), cast(Dtype, memory.dtype)
        parameters = (
            random_parameters(spec, dtype, model.seed)
            if model.load_format == "dummy"
            else load_parameters(spec, checkpoint, dtype)
        )
        self._decoder = Decoder(spec, parameters, CpuOps(self._kernels))
        self.logits_processors = LogitsProcessors()
        self._runner: Runner | None = None

    @property
    def info(self) -> dict[str, Any]:
        return {"isa": self._kernels.isa}

    def bind(self, engine: Engine) -> None:
        spec, memory = self._decoder.spec, self._memory
        cache = paged_kv_cache(self._kernels, spec, memory, engine, max_num_seqs=self._max_num_seqs)
        attention = CpuAttention(spec, cache, self._kernels, max_model_len=memory.max_model_len)
        self._runner = Runner(engine, self._decoder, attention, self._kernels, self.logits_processors)

    def execute(self, plan: Plan) -> None:
        if self._runner is None:
            raise RuntimeError("execute before bind")
        self._runner.step(plan)
