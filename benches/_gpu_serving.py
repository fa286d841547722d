"""octavo's engine on a GPU, in this process, with weights that nobody trained.

Engine       submits prompts of token ids and runs them to their end; times steps by the GPU's own events
decode_steps    milliseconds of a decoding step, by batch size
throughput      many requests at once: tokens a second, time to the first token, time of each next one, idle GPU
transformers    the same shapes by Transformers' generate, one by one and batched
"""

import gc
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from octavo._core import Delta, Endpoint, Failed, Frontend, Plan, Sampling
from octavo.config import CacheConfig, DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from octavo.engine.build import build_engine
from octavo.engine.loop import EngineLoop
from octavo.engine.start import prepare

LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
}
"""Llama-3.1-8B's shape."""


@dataclass(frozen=True)
class Step:
    start: torch.cuda.Event
    end: torch.cuda.Event
    num_tokens: int
    decodes: bool
    """Every request had one token, and sampled."""


class TimedBackend:
    """A backend whose steps are framed by events on the GPU."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.steps: list[Step] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def execute(self, plan: Plan) -> None:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self._backend.execute(plan)
        end.record()
        self.steps.append(Step(start, end, plan.num_tokens, plan.num_tokens == plan.num_samples))


class Engine:
    def __init__(self, model: dict[str, Any], *, enforce_eager: bool = False, max_num_seqs: int = 256) -> None:
        self.vocab_size = model["vocab_size"]
        folder = Path(tempfile.mkdtemp(prefix="octavo-gpu-"))
        (folder / "config.json").write_text(json.dumps(model))
        config = EngineConfig(
            model=ModelConfig(model=str(folder), load_format="dummy", seed=1),
            cache=CacheConfig(enable_prefix_caching=False),
            device=DeviceConfig(device="cuda", enforce_eager=enforce_eager),
            scheduler=SchedulerConfig(max_num_seqs=max_num_seqs, max_num_batched_tokens=8192),
        )
        start = prepare(config).start
        front, back = Endpoint.pair()
        self._engine, backend = build_engine(start, back)
        self.backend = TimedBackend(backend)
        self._loop = EngineLoop(self._engine, self.backend)
        self._frontend = Frontend(
            front, None, max_model_len=start.memory.max_model_len, vocab_size=self.vocab_size, threads=1
        )

    def run(self, prompts: list[list[int]], max_tokens: int) -> tuple[float, dict[int, list[float]]]:
        """Seconds in all, and when each token of each request came, from the start."""
        self.backend.steps.clear()
        began = time.perf_counter()
        sampling = Sampling(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        requests = [self._frontend.submit(prompt, sampling) for prompt in prompts]
        times: dict[int, list[float]] = {request: [] for request in requests}
        while True:
            open_requests = self._frontend.num_open
            for event in self._frontend.drain():
                if isinstance(event, Failed):
                    raise RuntimeError(event.message)
                if isinstance(event, Delta):
                    times[event.request] += [time.perf_counter() - began] * len(event.token_ids)
            if not open_requests:
                return time.perf_counter() - began, times
            if not self._loop.turn(timeout=0.0):
                self._frontend.wait(0.001)

    def close(self) -> None:
        """Gives the GPU's memory back."""
        del self._loop, self.backend, self._engine
        gc.collect()
        torch.cuda.empty_cache()

    def prompts(self, count: int, length: int, seed: int = 0) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        drawn: list[list[int]] = torch.randint(0, self.vocab_size, (count, length), generator=generator).tolist()
        return drawn


def decode_steps(engine: Engine, batches: list[int], context: int, label: str) -> dict[str, float]:
    figures = {}
    for batch in batches:
        engine.run(engine.prompts(batch, context), 4)  # captures what it needs
        engine.run(engine.prompts(batch, context, seed=batch), 40)
        torch.cuda.synchronize()
        steps = [step for step in engine.backend.steps if step.decodes and step.num_tokens == batch]
        times = [step.start.elapsed_time(step.end) for step in steps]
        figures[f"step_{label}_b{batch}_ms"] = statistics.median(times)
    return figures


def throughput(engine: Engine, requests: int, tokens_in: int, tokens_out: int) -> dict[str, float]:
    engine.run(engine.prompts(64, tokens_in), 8)
    seconds, times = engine.run(engine.prompts(requests, tokens_in, seed=2), tokens_out)
    torch.cuda.synchronize()
    steps = engine.backend.steps
    busy = sum(step.start.elapsed_time(step.end) for step in steps)
    idle = sum(before.end.elapsed_time(after.start) for before, after in pairwise(steps))
    first = [each[0] for each in times.values()]
    between = [(each[-1] - each[0]) / (len(each) - 1) for each in times.values()]
    return {
        "output_tokens_per_s": requests * tokens_out / seconds,
        "ttft_p50_ms": 1000 * statistics.median(first),
        "tpot_p50_ms": 1000 * statistics.median(between),
        "gpu_idle_percent": 100 * idle / (busy + idle),
    }


def transformers(model: dict[str, Any], tokens_in: int, tokens_out: int, batch: int) -> dict[str, float]:
    """Tokens a second of generate, greedy, in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("cuda"):
        theirs = LlamaForCausalLM(LlamaConfig(**model)).to(torch.bfloat16).eval()
    figures = {}
    for name, rows, repeats in (("one_by_one", 1, 3), (f"batch_{batch}", batch, 1)):
        prompts = torch.randint(0, model["vocab_size"], (rows, tokens_in), device="cuda")

        def generate(prompts: torch.Tensor = prompts) -> None:
            theirs.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=tokens_out,
                min_new_tokens=tokens_out,
                do_sample=False,
            )
            torch.cuda.synchronize()

        generate()
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            generate()
            times.append(time.perf_counter() - began)
        figures[f"transformers_{name}_tokens_per_s"] = rows * tokens_out / statistics.median(times)
    return figures
