"""What the engine's loop asks of a device, and the arenas that both sides of a step share.

`Arena` is one preallocated buffer with named columns (see `Engine.arena_layout`): Rust fills the input columns, the
backend the output columns. Two steps may be in flight, so there is more than one.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octavo._core import Engine, Plan

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

Arena = Mapping[str, NDArray[Any]]


class Backend(Protocol):
    """One device with one model. `execute` is called from one thread only."""

    @property
    def info(self) -> dict[str, Any]:
        """For the ready report: dtype, device, isa, threads, load_seconds, as far as they mean something here."""

    def bind(self, engine: Engine) -> None:
        """Allocates the arenas and gives them to the engine. Called once, before the first plan."""

    def execute(self, plan: Plan) -> None:
        """Runs the step: reads the input columns of arena `plan.arena`, fills its output columns.

        Samples 0 to plan.num_samples - 1 need a token. Whatever it raises fails the requests of this step only.
        """


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
