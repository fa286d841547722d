"""The step's arena on a GPU: one copy of the host's columns, at addresses that never change.

Two steps may be in flight with an arena each on the host; the GPU takes them one after another, so it has one.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from octavo._core import Engine, Plan
from octavo.backends.base import Arena, bind_arenas
from octavo.backends.cuda.arguments import MergeList, StepCount, WorkList
from octavo.backends.cuda.driver import Driver


class DeviceArena:
    def __init__(self, driver: Driver, engine: Engine) -> None:
        """Allocates the engine's arenas in pinned memory and binds them."""
        self._driver = driver
        self._pinned: list[torch.Tensor] = []

        def allocate(num_bytes: int) -> NDArray[np.uint8]:
            self._pinned.append(driver.pinned(num_bytes))
            memory: NDArray[np.uint8] = self._pinned[-1].numpy()
            return memory

        self.host: list[Arena] = bind_arenas(engine, allocate)
        self._memory = torch.zeros(engine.arena_bytes, dtype=torch.uint8, device=driver.device)
        self._offsets = {name: offset for name, _, offset, _ in engine.arena_layout()}
        self._inputs, self._outputs = slice(0, engine.arena_input_bytes), slice(engine.arena_input_bytes, None)

    def upload(self, plan: Plan) -> None:
        """Starts the copy of the step's inputs."""
        self._driver.upload(self._memory[self._inputs], self._pinned[plan.arena][self._inputs])

    def download(self, plan: Plan) -> None:
        """Starts the copy of its outputs."""
        self._driver.download(self._pinned[plan.arena][self._outputs], self._memory[self._outputs])

    def address(self, column: str) -> int:
        return int(self._memory.data_ptr()) + self._offsets[column]

    def count_address(self, count: StepCount) -> int:
        return self.address("counts") + 4 * count

    def column(self, name: str, length: int) -> torch.Tensor:
        """i32: the first elements of a column."""
        start = self._offsets[name]
        return self._memory[start : start + 4 * length].view(torch.int32)

    def work_list(self, kind: str) -> WorkList:
        """`kind` is decode or prefill."""
        columns = {"entry", "first_row", "kv_begin", "kv_end", "slot"} - ({"first_row"} if kind == "decode" else set())
        addresses = {name: self.address(f"{kind}_{name}") for name in columns}
        count = StepCount.NUM_DECODE_ITEMS if kind == "decode" else StepCount.NUM_PREFILL_ITEMS
        return WorkList(count=self.count_address(count), **addresses)

    def merge_list(self) -> MergeList:
        columns = ("token", "first_slot", "num_slots", "slot_stride")
        addresses = {name: self.address(f"merge_{name}") for name in columns}
        return MergeList(count=self.count_address(StepCount.NUM_MERGES), **addresses)
