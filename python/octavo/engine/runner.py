"""One step of a model: the arena's columns in, sampled tokens out. The hot path, whole.

Python's work here does not depend on how many requests or tokens a step has.
"""

import torch

from octavo._core import CpuKernels, Engine, Plan
from octavo.backends.base import bind_arenas
from octavo.backends.cpu import CpuAttention
from octavo.engine.logits_processors import LogitsProcessors
from octavo.layers.linear import MIN_ROWS
from octavo.models.decoder import Decoder


class Runner:
    """A decoder, bound to the arenas of one engine."""

    def __init__(
        self,
        engine: Engine,
        decoder: Decoder,
        attention: CpuAttention,
        kernels: CpuKernels,
        logits_processors: LogitsProcessors,
    ) -> None:
        self._engine, self._decoder, self._attention, self._kernels = engine, decoder, attention, kernels
        self._logits_processors = logits_processors
        self._arenas = bind_arenas(engine)
        names = ("input_ids", "logits_index")
        self._tensors = [{name: torch.from_numpy(arena[name]) for name in names} for arena in self._arenas]

    def step(self, plan: Plan) -> None:
        """Fills the output columns of the plan's arena."""
        self._attention.begin_step(self._arenas[plan.arena], plan)
        columns = self._tensors[plan.arena]
        with torch.inference_mode():
            logits = self._decoder.forward(
                columns["input_ids"][: max(plan.num_tokens, MIN_ROWS)],
                columns["logits_index"][: plan.num_samples],
                self._attention,
            )
        if plan.num_processed:
            self._logits_processors.apply(self._engine, plan.epoch, logits.numpy())
        self._kernels.sample(self._engine, plan.epoch, logits.numpy())
