"""Captured steps: a step that only decodes is replayed whole, padded to the next size that has a graph.

A graph keeps launches with their grids and addresses; all that differs from step to step is read from the arena on the
GPU. So it serves every step of at most its size in which each request has one token and samples from it.
"""

import logging
from collections.abc import Callable, Sequence

import torch

from octavo._core import Plan
from octavo.backends.cuda.driver import Driver, Graph
from octavo.config import DeviceConfig

logger = logging.getLogger(__name__)


LARGEST = 512
"""Wider steps are bound by the GPU's work, not by launches."""


def graph_sizes(config: DeviceConfig, max_num_seqs: int) -> list[int]:
    """The sizes that are captured, each when it is first needed; none with enforce_eager."""
    if config.enforce_eager:
        return []
    if config.cudagraph_capture_sizes is not None:
        return [size for size in config.cudagraph_capture_sizes if size <= max_num_seqs]
    largest = min(max_num_seqs, config.max_cudagraph_capture_size or LARGEST)
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, largest, 16)]
    return [*(size for size in sizes if size < largest), largest]


class DecodeGraphs:
    """`run(size)` computes and samples a decoding step of `size` rows, and returns its logits."""

    def __init__(self, driver: Driver, sizes: Sequence[int], run: Callable[[int], torch.Tensor]) -> None:
        """No sizes: every step runs eagerly."""
        self._driver, self._run = driver, run
        self._sizes = sorted(set(sizes))
        self._graphs: dict[int, tuple[Graph, torch.Tensor]] = {}

    def size_for(self, plan: Plan) -> int | None:
        """The size that serves this step, if any does."""
        if plan.max_query_len > 1 or plan.num_samples != plan.num_tokens:
            return None
        return next((size for size in self._sizes if size >= plan.num_tokens), None)

    def step(self, size: int) -> torch.Tensor:
        """The first step of a size runs eagerly, which loads all that it needs; then it is captured for the next."""
        found = self._graphs.get(size)
        if found is None:
            logits = self._run(size)
            self._graphs[size] = self._driver.capture(lambda: self._run(size))
            logger.info("captured the decoding of %d rows", size)
            return logits
        graph, logits = found
        graph.replay()
        return logits
