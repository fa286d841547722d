"""Engines over a tiny Llama: on the CPU, and on the CUDA backend with the driver that needs no GPU.

tiny_llama(folder)    random weights whose answers are clear: the best token is far from the second
Serving               submits requests of token ids, and turns the engine until all have ended
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_driver import FakeDriver
from host import EMULATED
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from octavo._core import Delta, Endpoint, Engine, Failed, Frontend, Sampling
from octavo.backends.base import Backend
from octavo.backends.cuda.gpu import Gpu
from octavo.config import CacheConfig, DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from octavo.engine.build import build_engine
from octavo.engine.loop import EngineLoop
from octavo.engine.start import prepare

VOCABULARY = 97
MAX_LEN = 128
GPU = Gpu(name="fake", uuid="GPU-0", capability=(9, 0), total_bytes=8 << 30, free_bytes=8 << 30)


def tiny_llama(folder: Path) -> LlamaForCausalLM:
    torch.manual_seed(5)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=MAX_LEN,
            initializer_range=0.2,
            tie_word_embeddings=False,
        )
    ).to(torch.float16)
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@dataclass
class Serving:
    frontend: Frontend
    engine: Engine
    backend: Backend
    loop: EngineLoop
    driver: FakeDriver | None
    """None on the CPU, and on a GPU."""
    scores: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    """Of each request's prompt: log-probabilities and ranks."""
    num_preemptions: int = 0
    """Of choices that have ended."""

    def submit(self, prompt: list[int], max_tokens: int, **sampling: Any) -> int:
        options = {"temperature": 0.0, "ignore_eos": True, **sampling}
        return self.frontend.submit(prompt, Sampling(max_tokens=max_tokens, **options))

    def finish(self) -> dict[tuple[int, int], list[int]]:
        """The tokens of each request's choices, after all have ended."""
        tokens: dict[tuple[int, int], list[int]] = {}
        for delta in self.deltas():
            tokens.setdefault((delta.request, delta.index), []).extend(delta.token_ids)
        return tokens

    def deltas(self) -> list[Delta]:
        """Turns the engine until all requests have ended."""
        deltas: list[Delta] = []

        def take() -> None:
            for event in self.frontend.drain():
                assert not isinstance(event, Failed), event.message
                if isinstance(event, Delta):
                    deltas.append(event)
                    scores = [(entry.logprob, entry.rank) for entry in event.prompt_logprobs]
                    self.scores.setdefault(event.request, []).extend(scores)
                    self.num_preemptions += event.timings.num_preemptions if event.timings else 0

        while self.frontend.num_open:
            take()
            if not self.loop.turn(timeout=0.0):
                self.frontend.wait(0.01)
            self.engine.check_integrity()
        take()
        return deltas


def serve(
    folder: Path,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    cache: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    dtype: Any = "float16",
    **scheduler: Any,
) -> Serving:
    driver = FakeDriver() if EMULATED and device == "cuda" else None
    if driver is not None:
        monkeypatch.setattr("octavo.engine.gpu.find_gpus", lambda: [GPU])
        monkeypatch.setattr("octavo.engine.gpu.cuda_lacks", lambda: None)
        monkeypatch.setattr("octavo.engine.executor.cuda.open_driver", lambda: driver)
    config = EngineConfig(
        model=ModelConfig(model=str(folder), dtype=dtype, seed=3),
        cache=CacheConfig(**{"num_gpu_blocks_override": 64, **(cache or {})}),
        device=DeviceConfig(device=device, executor="torch", **(options or {})),
        scheduler=SchedulerConfig(**{"max_num_seqs": 8, "max_num_batched_tokens": 48, **scheduler}),
    )
    prepared = prepare(config).start
    assert prepared.memory.device == device
    front, back = Endpoint.pair()
    engine, backend = build_engine(prepared, back)
    frontend = Frontend(front, None, max_model_len=MAX_LEN, vocab_size=VOCABULARY, threads=1)
    return Serving(frontend, engine, backend, EngineLoop(engine, backend), driver)
