"""Drives a decoder over the paged cache as the engine would: ragged chunks of several sequences, scattered blocks."""

import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from octavo._core import CpuKernels, PagedKvCache
from octavo.backends.cpu import CpuAttention, CpuOps
from octavo.layers.linear import MIN_ROWS
from octavo.models.checkpoint import open_checkpoint
from octavo.models.decoder import Decoder
from octavo.models.layout import Dtype
from octavo.models.registry import spec_for
from octavo.models.source import resolve
from octavo.models.weights import load_parameters

BLOCK_SIZE, NUM_BLOCKS, MAX_SEQS, MAX_LEN = 4, 96, 8, 64


@dataclass
class Sequence:
    """`tokens` are known beforehand; each step computes the next few."""

    row: int
    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    computed: int = 0


class PagedDecoder:
    """A model loaded from a folder by octavo's own path, and a small cache."""

    def __init__(self, folder: str, dtype: Dtype = "float32") -> None:
        checkpoint = open_checkpoint(resolve(folder))
        spec = spec_for(checkpoint.config)
        kernels = CpuKernels(2)
        parameters = load_parameters(spec, checkpoint, dtype)
        self.decoder = Decoder(spec, parameters, CpuOps(kernels), max_model_len=MAX_LEN)
        assert not parameters, "every parameter has a reader"
        cache = PagedKvCache(
            kernels,
            num_layers=spec.num_layers,
            num_blocks=NUM_BLOCKS,
            block_size=BLOCK_SIZE,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            max_num_seqs=MAX_SEQS,
            max_blocks_per_seq=MAX_LEN // BLOCK_SIZE,
            dtype=dtype,
        )
        self.attention = CpuAttention(spec, cache)
        self.free = list(range(NUM_BLOCKS))
        random.Random(7).shuffle(self.free)

    def step(self, work: list[tuple[Sequence, int]]) -> list[torch.Tensor]:
        """Computes the next n tokens of each sequence; returns for each f32 [n, vocab]: the logits of those tokens."""
        columns: dict[str, list[int]] = {name: [] for name in ("ids", "positions", "slots", "row", "seq_len")}
        starts, deltas = [0], []
        for sequence, count in work:
            span = range(sequence.computed, sequence.computed + count)
            while len(sequence.blocks) * BLOCK_SIZE < span.stop:
                deltas.append((sequence.row, len(sequence.blocks), self.free.pop()))
                sequence.blocks.append(deltas[-1][2])
            columns["ids"] += sequence.tokens[span.start : span.stop]
            columns["positions"] += span
            columns["slots"] += [sequence.blocks[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in span]
            columns["row"].append(sequence.row)
            columns["seq_len"].append(span.stop)
            starts.append(starts[-1] + count)
            sequence.computed = span.stop
        self._begin(columns, starts, deltas)
        total = starts[-1]
        ids = torch.zeros(max(total, MIN_ROWS), dtype=torch.int32)
        ids[:total] = torch.tensor(columns["ids"], dtype=torch.int32)
        positions = torch.tensor(columns["positions"], dtype=torch.int32)
        with torch.inference_mode():
            logits = self.decoder.forward(ids, positions, torch.arange(total, dtype=torch.int32), self.attention)
        return list(logits.clone().split([count for _, count in work]))

    def _begin(self, columns: dict[str, list[int]], starts: list[int], deltas: list[tuple[int, int, int]]) -> None:
        def i32(values: Any) -> np.ndarray:
            return np.array(values, dtype=np.int32)

        table = i32(deltas).reshape(-1, 3)
        arena = {
            "row": i32(columns["row"]),
            "query_start": i32(starts),
            "seq_len": i32(columns["seq_len"]),
            "slot_mapping": np.array(columns["slots"], dtype=np.int64),
            "delta_row": table[:, 0].copy(),
            "delta_column": table[:, 1].copy(),
            "delta_block": table[:, 2].copy(),
            "copy_source": i32([]),
            "copy_target": i32([]),
        }
        plan = SimpleNamespace(
            num_reqs=len(columns["row"]), num_tokens=starts[-1], num_table_deltas=len(deltas), num_block_copies=0
        )
        self.attention.begin_step(arena, plan)
