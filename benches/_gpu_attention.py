"""Our attention kernels on a GPU beside its ceilings and torch's own attention.

    ceilings      bytes a second of a copy, and operations a second of a matrix product
    decode        bytes of keys and values a second, of many requests with one query token each
    prefill       operations a second, of whole prompts

Every figure is the median of several runs, each timed by the GPU's own events; what is compared runs by turns.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from octavo.backends.cuda.arguments import AttentionCall, MergeList, WorkList
from octavo.backends.cuda.driver import Driver, Kernel
from octavo.backends.cuda.variants import attention

BLOCK_SIZE = 16


@dataclass(frozen=True)
class Shape:
    """Llama-3.1-8B's heads."""

    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    dtype: torch.dtype = torch.bfloat16


def seconds(works: Mapping[str, Callable[[], object]], runs: int = 9) -> dict[str, float]:
    """The median of each, by turns, after one run to warm up."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / 1000)
    return {name: statistics.median(each) for name, each in times.items()}


def ceilings(device: torch.device) -> dict[str, float]:
    source = torch.empty(2 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn((8192, 8192), dtype=torch.bfloat16, device=device) for _ in range(2))
    out = torch.empty_like(left)
    taken = seconds({"copy": lambda: target.copy_(source), "matmul": lambda: torch.mm(left, right, out=out)})
    return {
        "copy_gb_per_s": 2 * source.numel() / taken["copy"] / 1e9,
        "matmul_tflop_per_s": 2 * 8192**3 / taken["matmul"] / 1e12,
    }


class PagedStep:
    """Requests of one length over a cache whose blocks are in no order, each item of work with all its keys."""

    def __init__(self, driver: Driver, shape: Shape, num_reqs: int, num_query: int, length: int) -> None:
        self.shape, device = shape, driver.device
        heads = (shape.num_kv_heads, shape.head_dim)
        pages = -(-length // BLOCK_SIZE)
        generator = torch.Generator(device).manual_seed(1)
        self.cache = torch.randn(
            (2, num_reqs * pages, BLOCK_SIZE, *heads), dtype=shape.dtype, device=device, generator=generator
        )
        rows = (num_reqs * num_query, shape.num_heads, shape.head_dim)
        self.query = torch.randn(rows, dtype=shape.dtype, device=device, generator=generator)
        self.output = torch.empty_like(self.query)
        order = torch.randperm(num_reqs * pages, device=device, generator=generator)
        self.tables = order.to(torch.int32).view(num_reqs, pages)
        self._columns: list[torch.Tensor] = []
        self._requests, self._num_query, self._length = num_reqs, num_query, length

    def _column(self, values: list[int]) -> int:
        self._columns.append(torch.tensor(values, dtype=torch.int32, device=self.query.device))
        return self._columns[-1].data_ptr()

    def call(self, tile_rows: int | None = None) -> AttentionCall:
        """`tile_rows`: of paged_prefill; decoding takes all rows at once."""
        shape, keys, queries = self.shape, self.cache[0], self._num_query
        rows = queries * shape.num_heads // shape.num_kv_heads
        starts = range(0, rows, tile_rows or rows)
        items = [(entry, first) for first in reversed(starts) for entry in range(self._requests)]
        none = self._column([0])
        return AttentionCall(
            query=self.query.data_ptr(),
            output=self.output.data_ptr(),
            keys=keys.data_ptr(),
            values=self.cache[1].data_ptr(),
            block_table=self.tables.data_ptr(),
            row=self._column(list(range(self._requests))),
            query_start=self._column([index * queries for index in range(self._requests + 1)]),
            seq_len=self._column([self._length] * self._requests),
            work=WorkList(
                count=self._column([len(items)]),
                entry=self._column([entry for entry, _ in items]),
                first_row=self._column([first for _, first in items]),
                kv_begin=self._column([0] * len(items)),
                kv_end=self._column([self._length] * len(items)),
                slot=self._column([-1] * len(items)),
            ),
            merges=MergeList(none, none, none, none, none),
            query_stride=shape.num_heads * shape.head_dim,
            block_stride=keys.stride(0),
            token_stride=keys.stride(1),
            head_stride=keys.stride(2),
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            table_stride=self.tables.stride(0),
            page_shift=BLOCK_SIZE.bit_length() - 1,
            scale=shape.head_dim**-0.5,
        )

    def torch_paged(self) -> Callable[[], object] | None:
        """torch's own attention over the same pages; None where this torch or this GPU does not have it."""
        try:
            from torch.nn.attention.varlen import varlen_attn_out
        except ImportError:
            return None
        device = self.query.device
        starts = torch.arange(self._requests + 1, dtype=torch.int32, device=device) * self._num_query
        used = torch.full((self._requests,), self._length, dtype=torch.int32, device=device)
        out = torch.empty_like(self.query)

        def attend() -> None:
            varlen_attn_out(
                out,
                self.query,
                self.cache[0],
                self.cache[1],
                starts,
                None,
                self._num_query,
                self._length,
                window_size=(-1, 0),
                enable_gqa=True,
                seqused_k=used,
                block_table=self.tables,
            )

        try:
            attend()
        except (RuntimeError, TypeError, ValueError) as error:
            print(f"without torch's paged attention: {str(error).splitlines()[0]}")
            return None
        return attend

    def dense(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, keys and values of the same step without pages: [requests, heads, tokens, dim]."""
        pages = self.cache[:, self.tables.long()].flatten(2, 3)[:, :, : self._length]
        query = self.query.view(self._requests, self._num_query, *self.query.shape[1:])
        return query.transpose(1, 2), pages[0].transpose(1, 2), pages[1].transpose(1, 2)


def load(driver: Driver, shape: Shape) -> tuple[Kernel, Kernel, int]:
    """The kernels of decode and prefill, and the rows of a tile of prefill."""
    decode, prefill = driver.load(
        [attention(name, shape.head_dim, "Bfloat16", "Bfloat16") for name in ("paged_decode", "paged_prefill")]
    )
    return decode.kernel("paged_decode"), prefill.kernel("paged_prefill"), prefill.constant("prefill_tile_rows")


def decode(driver: Driver, shape: Shape, batch: int, length: int) -> dict[str, float]:
    kernel, _, _ = load(driver, shape)
    step = PagedStep(driver, shape, batch, 1, length)
    call = step.call()
    query, keys, values = step.dense()
    taken = seconds(
        {
            "ours": lambda: kernel.launch(kernel.resident_blocks, call),
            "torch": lambda: torch.nn.functional.scaled_dot_product_attention(query, keys, values, enable_gqa=True),
        }
    )
    num_bytes = 2 * batch * length * shape.num_kv_heads * shape.head_dim * 2
    name = f"decode_b{batch}_c{length}"
    return {
        f"{name}_gb_per_s": num_bytes / taken["ours"] / 1e9,
        f"{name}_speedup_over_torch_without_pages": taken["torch"] / taken["ours"],
    }


def prefill(driver: Driver, shape: Shape, batch: int, length: int) -> dict[str, float]:
    _, kernel, tile_rows = load(driver, shape)
    step = PagedStep(driver, shape, batch, length, length)
    call = step.call(tile_rows)
    query, keys, values = step.dense()
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: kernel.launch(kernel.resident_blocks, call),
        "torch": lambda: torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, is_causal=True, enable_gqa=True
        ),
    }
    paged = step.torch_paged()
    if paged is not None:
        works["torch_paged"] = paged
    taken = seconds(works)
    operations = 2 * batch * length * length * shape.num_heads * shape.head_dim
    name = f"prefill_b{batch}_t{length}"
    figures = {
        f"{name}_tflop_per_s": operations / taken["ours"] / 1e12,
        f"{name}_speedup_over_torch_without_pages": taken["torch"] / taken["ours"],
    }
    if "torch_paged" in taken:
        figures[f"{name}_speedup_over_torch_with_pages"] = taken["torch_paged"] / taken["ours"]
    return figures
