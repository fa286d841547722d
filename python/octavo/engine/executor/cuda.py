"""The CUDA executor: the torch decoder on a GPU, with our kernels around torch's products, in captured graphs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from octavo._core import CpuKernels, DeviceWork, Engine, Plan
from octavo.backends.cuda.arena import DeviceArena
from octavo.backends.cuda.cache import CudaAttention, CudaCache
from octavo.backends.cuda.driver import open_driver
from octavo.backends.cuda.kernels import load_kernels
from octavo.backends.cuda.ops import CudaOps
from octavo.engine.cuda_runner import CudaRunner
from octavo.engine.graphs import graph_sizes
from octavo.engine.logits_processors import LogitsProcessors
from octavo.engine.start import EngineStart
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint
from octavo.models.decoder import Decoder
from octavo.models.layout import Dtype
from octavo.models.registry import spec_for
from octavo.models.weights import Place, load_parameters, random_parameters

logger = logging.getLogger(__name__)


class CudaExecutor:
    """A `Backend` on one GPU."""

    def __init__(self, start: EngineStart, checkpoint: Checkpoint) -> None:
        """Loads kernels and weights, with a progress bar. ModelError when they do not fit the config or the GPU."""
        self._memory, self._config = start.memory, start.config
        self._driver = open_driver()
        memory, model, scheduler = start.memory, start.config.model, start.config.scheduler
        spec, dtype = spec_for(checkpoint.config), cast(Dtype, memory.dtype)
        place = Place(self._driver.device, dtype)
        self._kernels = load_kernels(self._driver, spec, memory.dtype, memory.kv_dtype)
        with self._out_of_memory("the weights"):
            parameters = (
                random_parameters(spec, dtype, model.seed, place)
                if model.load_format == "dummy"
                else load_parameters(spec, checkpoint, dtype, place)
            )
            ops = CudaOps(
                self._driver, self._kernels, max_num_samples=scheduler.max_num_seqs, vocab_size=spec.vocab_size
            )
        self._decoder = Decoder(spec, parameters, ops)
        self._sampler = CpuKernels(memory.threads)
        self.logits_processors = LogitsProcessors()
        self._runner: CudaRunner | None = None
        self.steps_ahead = 1 if scheduler.async_scheduling else 0

    @property
    def info(self) -> dict[str, Any]:
        """`gpu_peak_bytes` is what torch has taken so far: weights, cache, and the widest step."""
        driver = self._driver
        return {"gpu": driver.name, "architecture": driver.architecture, "gpu_peak_bytes": driver.peak_bytes()}

    @property
    def device_work(self) -> DeviceWork:
        """For the engine's plans."""
        spec, kernels = self._decoder.spec, self._kernels
        return DeviceWork(
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            prefill_tile_rows=kernels.prefill_tile_rows,
            decode_units=kernels.decode.resident_blocks,
            prefill_units=kernels.prefill.resident_blocks,
        )

    def bind(self, engine: Engine) -> None:
        """Takes the memory that the plan names, and runs the widest step once. ModelError when the GPU has less."""
        with self._out_of_memory("the KV cache and the widest step"):
            self._runner = self._make_runner(engine)
            self._runner.warm_up()

    def execute(self, plan: Plan) -> None:
        if self._runner is None:
            raise RuntimeError("execute before bind")
        self._runner.execute(plan)

    def finish(self, plan: Plan) -> None:
        if self._runner is None:
            raise RuntimeError("finish before bind")
        self._runner.finish(plan)

    def _make_runner(self, engine: Engine) -> CudaRunner:
        driver, memory, scheduler = self._driver, self._memory, self._config.scheduler
        arena = DeviceArena(driver, engine)
        cache = CudaCache(
            driver,
            self._decoder.spec,
            kv_dtype=memory.kv_dtype,
            num_blocks=memory.num_blocks,
            block_size=memory.block_size,
            max_num_seqs=scheduler.max_num_seqs,
            max_blocks_per_seq=engine.max_blocks_per_seq,
        )
        attention = CudaAttention(
            driver,
            self._kernels,
            self._decoder.spec,
            cache,
            arena,
            max_slots=engine.max_attention_slots,
            max_model_len=memory.max_model_len,
        )
        return CudaRunner(
            driver,
            self._kernels,
            engine,
            self._decoder,
            cache,
            attention,
            arena,
            self._sampler,
            self.logits_processors,
            max_num_tokens=memory.max_num_batched_tokens,
            max_num_seqs=scheduler.max_num_seqs,
            graph_sizes=graph_sizes(self._config.device, scheduler.max_num_seqs),
        )

    @contextmanager
    def _out_of_memory(self, what: str) -> Iterator[None]:
        """The plan was made from what was free then; another program may have taken some since."""
        try:
            yield
        except torch.OutOfMemoryError:
            memory, cache = self._memory, self._config.cache
            length = memory.max_model_len // 2
            raise ModelError(
                f"the GPU's memory ran out for {what}: another program may use it too. Lower "
                f"--gpu-memory-utilization (now {cache.gpu_memory_utilization}), --max-num-batched-tokens (now "
                f"{memory.max_num_batched_tokens}) or --max-num-seqs; --max-model-len {length} needs half of the cache"
            ) from None
