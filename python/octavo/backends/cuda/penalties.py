"""Which tokens each row has had, on the GPU: what penalties are made of.

The sampler adds what it chooses; octavo-core lists in the arena what it cannot know (history.rs), when a row starts.
"""

import torch

from octavo.backends.cuda.arena import DeviceArena
from octavo.backends.cuda.arguments import CountTokensCall, PenaltyState, StepCount
from octavo.backends.cuda.driver import Driver
from octavo.backends.cuda.kernels import Kernels

HISTORY_BLOCKS = 64


class TokenHistory:
    def __init__(
        self, driver: Driver, kernels: Kernels, arena: DeviceArena, *, max_num_seqs: int, vocab_size: int
    ) -> None:
        self._kernels, device = kernels, driver.device
        self._output_counts = torch.zeros((max_num_seqs, vocab_size), dtype=torch.int16, device=device)
        self._prompt_tokens = torch.zeros((max_num_seqs, -(-vocab_size // 32)), dtype=torch.int32, device=device)
        self.state = PenaltyState(
            presence=arena.address("presence_penalty"),
            frequency=arena.address("frequency_penalty"),
            repetition=arena.address("repetition_penalty"),
            output_counts=self._output_counts.data_ptr(),
            prompt_tokens=self._prompt_tokens.data_ptr(),
        )
        self._call = CountTokensCall(
            num_items=arena.count_address(StepCount.NUM_HISTORIES),
            row=arena.address("history_row"),
            starts=arena.address("history_starts"),
            first_token=arena.address("history_first"),
            num_prompt=arena.address("history_num_prompt"),
            tokens=arena.address("history_tokens"),
            penalties=self.state,
            vocab_size=vocab_size,
        )

    def count(self) -> None:
        """Adds what the step lists. Before it is sampled."""
        self._kernels.count_tokens.launch(HISTORY_BLOCKS, self._call)
