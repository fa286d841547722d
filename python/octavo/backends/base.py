"""What the engine's loop asks of a device, and the arenas that both sides of a step share.

`Arena` is one preallocated buffer with named columns (see `Engine.arena_layout`): Rust fills the input columns, the
backend the output columns. Two steps may be in flight, so there is more than one.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo._core import DeviceWork, Engine, Plan
from octavo.engine.logits_processors import LogitsProcessors

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

Arena = Mapping[str, NDArray[Any]]


class Backend(Protocol):
    """One device with one model. `execute` is called from one thread only."""

    @property
    def info(self) -> dict[str, Any]:
        """For the ready report: dtype, device, isa, threads, load_seconds, as far as they mean something here."""

    steps_ahead: int
    """How many steps may be started before one is finished: 1 where `execute` only enqueues."""

    @property
    def logits_processors(self) -> LogitsProcessors | None:
        """What it calls for samples that are to be processed; None where there are no logits."""

    @property
    def device_work(self) -> DeviceWork | None:
        """What plans need to know of a device that takes the arena as a whole; None: it is read in place."""

    def bind(self, engine: Engine) -> None:
        """Allocates the arenas and gives them to the engine. Called once, before the first plan."""

    def execute(self, plan: Plan) -> None:
        """Runs the step, or starts it: reads the input columns of arena `plan.arena`, fills its output columns.

        Samples 0 to plan.num_samples - 1 need a token. Whatever it raises fails the requests of this step only.
        """

    def finish(self, plan: Plan) -> None:
        """Waits until the step's output columns are filled. Called once for each step, in order."""


class HostBackend:
    """What backends have in common that read the arena in place, and are done with a step when `execute` returns."""

    steps_ahead = 0
    device_work: DeviceWork | None = None

    def finish(self, plan: Plan) -> None:
        pass


def aligned_bytes(size: int) -> NDArray[np.uint8]:
    """Zeroed bytes that start at a multiple of 64."""
    whole = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    start = -whole.ctypes.data % ALIGNMENT
    return whole[start : start + size]


def bind_arenas(engine: Engine, allocate: Callable[[int], NDArray[np.uint8]] = aligned_bytes) -> list[Arena]:
    """Allocates and binds every arena, and returns their columns as views."""
    layout = engine.arena_layout()
    arenas: list[Arena] = []
    for index in range(engine.num_arenas):
        memory = allocate(engine.arena_bytes)
        engine.bind_arena(index, memory)
        arenas.append(
            {
                name: memory[offset : offset + length * np.dtype(kind).itemsize].view(kind)
                for name, kind, offset, length in layout
            }
        )
    return arenas
