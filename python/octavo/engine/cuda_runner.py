"""One step of a model on a GPU: one copy there, the forward pass and the sampling, one small copy back.

`execute` only enqueues, so that the next step can be planned meanwhile; `finish` waits. Python's work here does not
depend on how many requests or tokens a step has.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from octavo._core import CpuKernels, Engine, Plan
from octavo.backends.cuda.arena import DeviceArena
from octavo.backends.cuda.arguments import SamplingCall, StepCount, UpdateRowsCall
from octavo.backends.cuda.cache import COPY_BLOCKS, CudaAttention, CudaCache
from octavo.backends.cuda.driver import Driver, Event
from octavo.backends.cuda.kernels import Kernels
from octavo.backends.cuda.penalties import TokenHistory
from octavo.engine.graphs import DecodeGraphs
from octavo.engine.logits_processors import LogitsProcessors
from octavo.models.decoder import Decoder

UPDATE_BLOCKS = 32

SAMPLING_COLUMNS = (
    *("temperature", "top_k", "top_p", "min_p", "seed", "choice", "draw_step", "sample_row", "host_sample"),
    *("num_logprobs", "sampled", "sampled_logprob", "sampled_rank", "top_ids", "top_logprobs"),
)
"""Fields of SamplingCall that are columns of the arena."""


class CudaRunner:
    """A decoder on a GPU, bound to the arenas of one engine."""

    def __init__(
        self,
        driver: Driver,
        kernels: Kernels,
        engine: Engine,
        decoder: Decoder,
        cache: CudaCache,
        attention: CudaAttention,
        arena: DeviceArena,
        sampler: CpuKernels,
        logits_processors: LogitsProcessors,
        *,
        max_num_tokens: int,
        max_num_seqs: int,
        graph_sizes: Sequence[int],
    ) -> None:
        """`sampler` takes what the GPU's kernel does not: samples with banned tokens, say, or a bias."""
        self._driver, self._kernels, self._engine = driver, kernels, engine
        self._decoder, self._attention, self._arena, self._sampler = decoder, attention, arena, sampler
        self._logits_processors = logits_processors
        self._copies = cache.copy_call(arena)
        self._tokens = torch.zeros(max_num_tokens, dtype=torch.int32, device=driver.device)
        self._last_token = torch.zeros(max_num_seqs, dtype=torch.int32, device=driver.device)
        self._update = UpdateRowsCall(
            counts=arena.address("counts"),
            delta_row=arena.address("delta_row"),
            delta_column=arena.address("delta_column"),
            delta_block=arena.address("delta_block"),
            input_ids=arena.address("input_ids"),
            last_token=self._last_token.data_ptr(),
            block_table=cache.tables.data_ptr(),
            tokens=self._tokens.data_ptr(),
            table_stride=cache.tables.stride(0),
        )
        vocab_size = decoder.spec.vocab_size
        self._history = TokenHistory(driver, kernels, arena, max_num_seqs=max_num_seqs, vocab_size=vocab_size)
        self._sampling = SamplingCall(
            num_samples=arena.count_address(StepCount.NUM_SAMPLES),
            last_token=self._last_token.data_ptr(),
            penalties=self._history.state,
            logits_stride=vocab_size,
            vocab_size=vocab_size,
            max_logprobs=arena.host[0]["top_ids"].size // max_num_seqs,
            **{name: arena.address(name) for name in SAMPLING_COLUMNS},
        )
        self._graphs = DecodeGraphs(driver, graph_sizes, self._decode)
        self._waiting: dict[int, tuple[Event, torch.Tensor | None]] = {}

    @torch.inference_mode()
    def warm_up(self) -> None:
        """A step as wide as steps can be, of no request: loads what steps need, and takes the memory that they take.

        Before the first plan, when the counts in the arena are zero.
        """
        num_samples = self._last_token.shape[0]
        self._attention.prefills = True
        self._forward(self._tokens.shape[0], self._arena.column("logits_index", num_samples))
        self._driver.record().synchronize()

    def execute(self, plan: Plan) -> None:
        """Enqueues the step."""
        try:
            self._enqueue(plan)
        except BaseException:
            # The arena is used again at once; what was enqueued may still read it.
            self._driver.record().synchronize()
            raise

    @torch.inference_mode()
    def _enqueue(self, plan: Plan) -> None:
        self._arena.upload(plan)
        if plan.num_block_copies:
            self._kernels.copy_blocks.launch(COPY_BLOCKS, self._copies)
        if plan.num_histories:
            self._history.count()
        size = self._graphs.size_for(plan)
        logits = self._prefill(plan) if size is None else self._graphs.step(size)
        host_logits = self._take_host_logits(plan, logits) if plan.num_host_samples else None
        self._arena.download(plan)
        self._waiting[plan.epoch] = (self._driver.record(), host_logits)

    def finish(self, plan: Plan) -> None:
        """Waits for the step; then its output columns are filled."""
        done, host_logits = self._waiting.pop(plan.epoch)
        done.synchronize()
        if host_logits is not None:
            samples = self._host_samples(plan)
            if plan.num_processed:
                self._logits_processors.apply(self._engine, plan.epoch, host_logits.numpy(), samples.tolist())
            self._sampler.sample(self._engine, plan.epoch, host_logits.numpy(), samples=samples)

    def _decode(self, size: int) -> torch.Tensor:
        self._attention.prefills = False
        return self._forward(size, None)

    def _prefill(self, plan: Plan) -> torch.Tensor:
        self._attention.prefills = plan.max_query_len > 1
        return self._forward(plan.num_tokens, self._arena.column("logits_index", plan.num_samples))

    def _forward(self, num_tokens: int, logits_index: torch.Tensor | None) -> torch.Tensor:
        """f32 [samples, vocab_size], which are sampled too."""
        self._update.num_padded_tokens = num_tokens
        self._kernels.update_rows.launch(UPDATE_BLOCKS, self._update)
        logits = self._decoder.forward(self._tokens[:num_tokens], logits_index, self._attention)
        if logits.shape[0]:
            self._sampling.logits = logits.data_ptr()
            self._kernels.sample.launch(logits.shape[0], self._sampling)
        return logits

    def _host_samples(self, plan: Plan) -> NDArray[np.int32]:
        flags = self._arena.host[plan.arena]["host_sample"][: plan.num_samples]
        return np.flatnonzero(flags).astype(np.int32)

    def _take_host_logits(self, plan: Plan, logits: torch.Tensor) -> torch.Tensor:
        """Starts the copy of the rows that the CPU samples."""
        samples = torch.from_numpy(self._host_samples(plan)).to(logits.device)
        rows = torch.index_select(logits, 0, samples)
        pinned = self._driver.pinned(rows.nbytes).view(torch.float32).view(rows.shape)
        self._driver.download(pinned, rows)
        return pinned
