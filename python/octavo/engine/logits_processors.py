"""Runs the logits processors (octavo/logits_processors.py) of a step's requests, between the model and the sampler.

A step whose plan has no `num_processed` knows nothing of all this.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from octavo._core import Engine
from octavo.logits_processors import LogitsProcessor, name_of, takes_prompt

Logits = NDArray[np.float32]


class LogitsProcessors:
    """Those of the requests that a backend runs."""

    def __init__(self) -> None:
        self._processors: dict[int, Sequence[LogitsProcessor]] = {}
        self.errors: dict[int, Exception] = {}
        """What a request's processor raised; the request fails."""

    def add(self, request: int, processors: Sequence[LogitsProcessor]) -> None:
        """Before the first step that the request is in."""
        self._processors[request] = processors

    def failure(self, request: int) -> RuntimeError:
        """What the caller of a failed request gets; its cause is what the processor raised."""
        cause = self.errors[request]
        error = RuntimeError(f"logits_processors: {type(cause).__name__}: {cause}")
        error.__cause__ = cause
        return error

    def keep(self, requests: Collection[int]) -> None:
        """Forgets all others."""
        for request in [each for each in self._processors if each not in requests]:
            del self._processors[request]
            self.errors.pop(request, None)

    def apply(self, engine: Engine, epoch: int, logits: Logits, samples: Sequence[int] | None = None) -> None:
        """Changes `logits` [samples, vocab_size] of a step: of all its samples, or of these.

        Where a processor fails, all become minus infinity: there is no token then, which ends the request alone.
        """
        places = None if samples is None else {int(sample): place for place, sample in enumerate(samples)}
        for sample, request, prompt, output in engine.processed_samples(epoch):
            row = logits[sample if places is None else places[sample]]
            if request in self.errors:
                row.fill(-np.inf)
                continue
            try:
                row[:] = _run(self._processors[request], prompt, output, row.copy())
            except Exception as error:
                self.errors[request] = error
                row.fill(-np.inf)


def _run(processors: Sequence[LogitsProcessor], prompt: list[int], output: list[int], row: Logits) -> Logits:
    shape = row.shape
    for processor in processors:
        arguments = (prompt, output, row) if takes_prompt(processor) else (output, row)
        changed = processor(*arguments)
        if changed is None:
            raise TypeError(f"{name_of(processor)} returned None; it has to return the logits")
        row = np.asarray(changed.detach().cpu() if hasattr(changed, "detach") else changed, dtype=np.float32)
        if row.shape != shape:
            raise ValueError(f"{name_of(processor)} returned logits of shape {row.shape}, not {shape}")
    return row
