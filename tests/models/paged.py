"""Drives a decoder over the paged cache as the engine would: ragged chunks of several sequences, scattered blocks.

PagedDecoder          torch's
NativePagedDecoder    the one in Rust
"""

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from octavo._core import CpuKernels, PagedKvCache
from octavo.backends.cpu import CpuAttention, CpuOps
from octavo.config import ModelConfig
from octavo.engine.executor.native import native_decoder
from octavo.layers.linear import MIN_ROWS
from octavo.models.checkpoint import open_checkpoint
from octavo.models.decoder import Decoder
from octavo.models.layout import Dtype
from octavo.models.native_weights import load_native
from octavo.models.registry import spec_for
from octavo.models.source import resolve
from octavo.models.spec import DecoderSpec
from octavo.models.weights import load_parameters

BLOCK_SIZE, NUM_BLOCKS, MAX_SEQS, MAX_LEN = 4, 96, 8, 64


@dataclass
class Sequence:
    """`tokens` are known beforehand; each step computes the next few."""

    row: int
    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    computed: int = 0


Columns = dict[str, list[int]]


class Paged(ABC):
    """A small cache, and the tables of who has which block of it."""

    def __init__(
        self, spec: DecoderSpec, kernels: CpuKernels, kv_dtype: str, max_len: int, block_size: int = BLOCK_SIZE
    ) -> None:
        self.block_size = block_size
        num_blocks = max(NUM_BLOCKS, 3 * max_len // block_size)
        self.cache = PagedKvCache(
            kernels,
            num_layers=spec.num_layers,
            num_blocks=num_blocks,
            block_size=block_size,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            max_num_seqs=MAX_SEQS,
            max_blocks_per_seq=-(-max_len // block_size),
            dtype=kv_dtype,
        )
        self.free = list(range(num_blocks))
        random.Random(7).shuffle(self.free)

    @abstractmethod
    def logits(self, arena: dict[str, np.ndarray], num_deltas: int) -> torch.Tensor:
        """f32 [tokens, vocab_size]: runs the step of the arena's columns."""

    def _slot(self, sequence: Sequence, position: int) -> int:
        return sequence.blocks[position // self.block_size] * self.block_size + position % self.block_size

    def release(self, sequence: Sequence) -> None:
        """Forgets what was computed, as preemption does."""
        self.free = sequence.blocks + self.free
        sequence.blocks, sequence.computed = [], 0

    def step(self, work: list[tuple[Sequence, int]]) -> list[torch.Tensor]:
        """Computes the next n tokens of each sequence; returns for each f32 [n, vocab]: the logits of those tokens."""
        columns: Columns = {name: [] for name in ("ids", "positions", "slots", "row", "seq_len")}
        starts, deltas = [0], []
        for sequence, count in work:
            span = range(sequence.computed, sequence.computed + count)
            while len(sequence.blocks) * self.block_size < span.stop:
                deltas.append((sequence.row, len(sequence.blocks), self.free.pop()))
                sequence.blocks.append(deltas[-1][2])
            columns["ids"] += sequence.tokens[span.start : span.stop]
            columns["positions"] += span
            columns["slots"] += [self._slot(sequence, position) for position in span]
            columns["row"].append(sequence.row)
            columns["seq_len"].append(span.stop)
            starts.append(starts[-1] + count)
            sequence.computed = span.stop
        table = i32(deltas).reshape(-1, 3)
        arena = {name: i32(values) for name, values in columns.items()}
        arena["slot_mapping"] = np.array(columns["slots"], dtype=np.int64)
        arena["query_start"] = i32(starts)
        for index, name in enumerate(("delta_row", "delta_column", "delta_block")):
            arena[name] = table[:, index].copy()
        return list(self.logits(arena, len(deltas)).split([count for _, count in work]))


class PagedDecoder(Paged):
    """A model loaded from a folder or file by octavo's own path, run by torch."""

    def __init__(self, source: str, dtype: Dtype = "float32") -> None:
        checkpoint = open_checkpoint(resolve(source))
        spec = spec_for(checkpoint.config)
        kernels = CpuKernels(2)
        super().__init__(spec, kernels, dtype, MAX_LEN)
        parameters = load_parameters(spec, checkpoint, dtype)
        self.decoder = Decoder(spec, parameters, CpuOps(kernels))
        assert not parameters, "every parameter has a reader"
        self.attention = CpuAttention(spec, self.cache, kernels, max_model_len=MAX_LEN)

    def logits(self, arena: dict[str, np.ndarray], num_deltas: int) -> torch.Tensor:
        total = len(arena["ids"])
        arena = {**arena, "copy_source": i32([]), "copy_target": i32([])}
        counts = {"num_reqs": len(arena["row"]), "num_tokens": total, "num_table_deltas": num_deltas}
        self.attention.begin_step(arena, SimpleNamespace(**counts, num_block_copies=0))
        ids = torch.zeros(max(total, MIN_ROWS), dtype=torch.int32)
        ids[:total] = torch.from_numpy(arena["ids"])
        index = torch.arange(total, dtype=torch.int32)
        with torch.inference_mode():
            return self.decoder.forward(ids, index, self.attention).clone()


class NativePagedDecoder(Paged):
    """The same in Rust. `options` are ModelConfig's."""

    def __init__(
        self,
        source: str,
        *,
        kv_dtype: str = "float32",
        threads: int = 2,
        isa: Any = "auto",
        max_len: int = MAX_LEN,
        block_size: int = BLOCK_SIZE,
        **options: Any,
    ) -> None:
        checkpoint = open_checkpoint(resolve(source))
        self.spec = spec_for(checkpoint.config)
        self.kernels = CpuKernels(threads, isa=isa)
        super().__init__(self.spec, self.kernels, kv_dtype, max_len, block_size)
        self.decoder = native_decoder(
            self.kernels, self.spec, max_model_len=max_len, max_num_tokens=max_len, max_num_seqs=max_len
        )
        load_native(self.decoder, self.spec, checkpoint, ModelConfig(model=source, **options))

    def logits(self, arena: dict[str, np.ndarray], num_deltas: int) -> torch.Tensor:
        names = ("row", "query_start", "seq_len", "slot_mapping", "delta_row", "delta_column", "delta_block")
        columns = {name: arena[name] for name in names}
        self.cache.begin_step(**columns, copy_source=i32([]), copy_target=i32([]))
        total = len(arena["ids"])
        logits = np.full((total, self.spec.vocab_size), np.nan, dtype=np.float32)
        index = np.arange(total, dtype=np.int32)
        self.decoder.forward(self.cache, arena["ids"], arena["positions"], index, logits)
        return torch.from_numpy(logits)


def i32(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.int32)
