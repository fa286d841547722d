"""Both executors under the engine: a tiny random model with dummy weights, prompts as token ids."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from octavo._core import Delta, Endpoint, Engine, Failed, Frontend, Sampling
from octavo.backends.base import Backend
from octavo.config import CacheConfig, DeviceConfig, EngineConfig, Executor, ModelConfig, SchedulerConfig
from octavo.engine.build import build_engine
from octavo.engine.loop import EngineLoop
from octavo.engine.start import prepare

VOCABULARY = 97


@dataclass
class Running:
    frontend: Frontend
    engine: Engine
    backend: Backend

    def submit(self, prompt: list[int], max_tokens: int) -> int:
        return self.frontend.submit(prompt, Sampling(temperature=0.0, max_tokens=max_tokens, ignore_eos=True))

    def finish(self) -> dict[int, list[int]]:
        """The tokens of each request, after all have ended."""
        tokens: dict[int, list[int]] = {}
        while self.frontend.num_open:
            for event in self.frontend.drain():
                assert not isinstance(event, Failed), event.message
                if isinstance(event, Delta):
                    tokens.setdefault(event.request, []).extend(event.token_ids)
            if not EngineLoop(self.engine, self.backend).turn(timeout=0.0):
                self.frontend.wait(0.01)
        for event in self.frontend.drain():
            if isinstance(event, Delta):
                tokens.setdefault(event.request, []).extend(event.token_ids)
        return tokens


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    ).save_pretrained(tmp_path)
    made: list[Running] = []

    def make(executor: Executor, dtype: Any = "float32", cache_dtype: Any = "auto", **scheduler: Any) -> Running:
        config = EngineConfig(
            model=ModelConfig(model=str(tmp_path), load_format="dummy", dtype=dtype, seed=3),
            cache=CacheConfig(enable_prefix_caching=False, cache_dtype=cache_dtype),
            device=DeviceConfig(executor=executor),
            scheduler=SchedulerConfig(**{"max_num_seqs": 64, "max_num_batched_tokens": 256, **scheduler}),
        )
        prepared = prepare(config).start
        assert prepared.memory.executor == executor
        front, back = Endpoint.pair()
        engine, backend = build_engine(prepared, back)
        made.append(Running(Frontend(front, None, max_model_len=64, vocab_size=VOCABULARY, threads=1), engine, backend))
        return made[-1]

    yield make
    for running in made:
        running.engine.check_integrity()


def python_calls(running: Running) -> int:
    """Function calls of one step that decodes every running request."""
    while (plan := running.engine.plan(1.0)) is None:
        pass
    assert plan.num_tokens == plan.num_reqs
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        running.backend.execute(plan)
    finally:
        sys.setprofile(None)
    running.engine.commit(plan.epoch)
    return calls


EXECUTORS = pytest.mark.parametrize("executor", ["native", "torch"])


@EXECUTORS
def test_pythons_work_does_not_depend_on_the_batch(start: Callable[..., Running], executor: str) -> None:
    counts = []
    for batch in (1, 64):
        running = start(executor)
        for index in range(batch):
            running.submit([index + 1, 2], max_tokens=30)
        while running.engine.stats.generation_tokens < 3 * batch:
            EngineLoop(running.engine, running.backend).turn(timeout=0.1)
        counts.append(python_calls(running))
        running.finish()
    assert counts[0] == counts[1]


@EXECUTORS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_runs(start: Callable[..., Running], executor: str, dtype: str) -> None:
    running = start(executor, dtype)
    request = running.submit([5, 6, 7], max_tokens=8)
    assert len(running.finish()[request]) == 8


@EXECUTORS
@pytest.mark.parametrize("cache_dtype", ["float32", "bfloat16", "float16", "int8"])
def test_every_kv_cache_runs(start: Callable[..., Running], executor: str, cache_dtype: str) -> None:
    running = start(executor, cache_dtype=cache_dtype)
    request = running.submit([5, 6, 7], max_tokens=8)
    assert len(running.finish()[request]) == 8


@EXECUTORS
def test_steps_of_one_token(start: Callable[..., Running], executor: str) -> None:
    """Narrower than torch's MIN_ROWS: the arena has no spare rows."""
    wide, narrow = start(executor), start(executor, max_num_seqs=1, max_num_batched_tokens=1)
    answers = []
    for running in (wide, narrow):
        request = running.submit([9, 8, 7, 6, 5], max_tokens=10)
        answers.append(running.finish()[request])
    assert answers[0] == answers[1]
