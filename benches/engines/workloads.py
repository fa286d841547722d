"""The workloads: random tokens from a fixed seed, greedy, no end before the last token, every core.

Prompts are new in every round, so that no engine's prefix cache helps, except where sharing is the point (W7) and where
only decoding is timed (W6).
"""

import random
from dataclasses import dataclass
from typing import Literal

FIRST_TOKEN, LAST_TOKEN = 100, 49_000
"""Ordinary tokens of SmolLM2's vocabulary."""

Timing = Literal["whole", "prefill", "decode", "http"]


@dataclass(frozen=True)
class Workload:
    name: str
    requests: int
    input_tokens: int
    output_tokens: int
    timing: Timing
    """What the seconds hold: all requests, which come at once; the prompt alone; decoding alone, at full batch; the
    requests of `clients` that each wait for an answer before they send the next.
    """
    shared_tokens: int = 0
    """So many of the input tokens are the same in all requests."""
    clients: int = 0
    one_by_one: int = 0
    """An engine without a scheduler of its own takes one request after the other: so many of them are timed."""

    @property
    def counted_tokens(self) -> int:
        """What is divided by the seconds: output tokens, and input tokens where the prompt is what is timed."""
        return self.requests * (self.input_tokens if self.timing == "prefill" else self.output_tokens)

    @property
    def max_model_len(self) -> int:
        return self.input_tokens + self.output_tokens

    def prompts(self, round_index: int) -> list[list[int]]:
        """The same for every engine in a round."""
        source = random.Random(f"{self.name} {0 if self.timing == 'decode' else round_index}")

        def tokens(count: int) -> list[int]:
            return [source.randrange(FIRST_TOKEN, LAST_TOKEN) for _ in range(count)]

        # One token more than the context that is decoded at: it is computed in every measurement, the cached ones not.
        own = self.input_tokens - self.shared_tokens + (self.timing == "decode")
        shared = tokens(self.shared_tokens)
        return [shared + tokens(own) for _ in range(self.requests)]


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", 32, 256, 64, "whole"),
        Workload("W2", 1, 64, 128, "whole"),
        Workload("W3", 1, 2048, 1, "prefill"),
        Workload("W4", 64, 128, 64, "http", clients=16),
        Workload("W5", 64, 32, 128, "whole", one_by_one=4),
        Workload("W6", 32, 1024, 64, "decode"),
        Workload("W7", 64, 1056, 64, "whole", shared_tokens=1024),
    )
}
