"""A request's tokens and log-probabilities have the same bits whatever the native executor does beside it.

The reference is the request alone, on one thread, in one piece. Hypothesis then draws other requests around it, and an
engine: threads, tokens a step, prefix caching, and a pool so small that requests must give way and start again. For
more than CI's few examples: `pytest tests/models/test_bits.py --hypothesis-profile=long`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_gguf
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo import LLM, RequestOutput, SamplingParams, TokensPrompt

VOCAB_SIZE, MAX_LEN = 47, 1024

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "float32": ("llama-bias", {}),
    "float32-window": ("mistral-window", {}),
    "bfloat16": ("qwen3", {"dtype": "bfloat16"}),
    "float16": ("qwen2", {"dtype": "float16"}),
    "Q4_1": ("Q4_1-tied-Q8_0.gguf", {}),
    "Q4_K_M": ("Q4_K_M.gguf", {"kv_cache_dtype": "bfloat16"}),
    "int8-cache": ("Q5_0-narrow.gguf", {"kv_cache_dtype": "int8"}),
    "int8-weights": ("llama-tied", {"quantization": "int8"}),
    "int4-weights": ("llama", {"quantization": "int4"}),
}
"""Name of a tiny model, and options."""


@dataclass(frozen=True)
class Request:
    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0


@dataclass(frozen=True)
class Settings:
    """How an engine runs. The defaults are the reference's."""

    cpu_threads: int = 1
    max_num_batched_tokens: int = 2048
    enable_prefix_caching: bool = False
    num_gpu_blocks_override: int = 1024


Answer = tuple[tuple[int, ...], tuple[tuple[tuple[int, float], ...], ...]]
"""Tokens, and for each the best 20 tokens with their log-probabilities."""


def answer(output: RequestOutput, index: int = 0) -> Answer:
    choice = output.outputs[index]
    assert choice.logprobs is not None
    scores = tuple(tuple((token, entry.logprob) for token, entry in each.items()) for each in choice.logprobs)
    return tuple(choice.token_ids), scores


@dataclass
class Bench:
    """One model, the engines that were needed so far, and what each request gave alone."""

    model: str
    options: dict[str, Any]
    llms: dict[Settings, LLM] = field(default_factory=dict, repr=False)
    alone: dict[Request, Answer] = field(default_factory=dict, repr=False)

    def llm(self, how: Settings) -> LLM:
        if how not in self.llms:
            self.llms[how] = LLM(
                self.model, executor="native", max_model_len=MAX_LEN, max_num_seqs=8, **vars(how), **self.options
            )
        return self.llms[how]

    def run(self, how: Settings, requests: list[Request], n: int = 1) -> list[RequestOutput]:
        prompts = [TokensPrompt(prompt_token_ids=list(request.prompt)) for request in requests]
        params = [
            SamplingParams(
                n=n,
                temperature=request.temperature,
                seed=9,
                max_tokens=request.max_tokens,
                ignore_eos=True,
                logprobs=20,
            )
            for request in requests
        ]
        return self.llm(how).generate(prompts, params, use_tqdm=False)

    def check(self, how: Settings, requests: list[Request]) -> list[RequestOutput]:
        for request in requests:
            if request not in self.alone:
                (output,) = self.run(Settings(), [request])
                self.alone[request] = answer(output)
        outputs = self.run(how, requests)
        for request, output in zip(requests, outputs, strict=True):
            assert answer(output) == self.alone[request]
        return outputs

    def close(self) -> None:
        for llm in self.llms.values():
            llm.llm_engine.core.check_integrity()
            llm.shutdown()


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    name, options = KINDS[request.param]
    folder = tmp_path_factory.mktemp("bits")
    made = Bench(str(model_of(name, folder, options.get("dtype", "float32"))), options)
    yield made
    made.close()


def model_of(name: str, folder: Path, dtype: str) -> Path:
    if name.endswith(".gguf"):
        path, _ = tiny_gguf.make_gguf(name.removesuffix(".gguf"), folder, max_position_embeddings=MAX_LEN)
        return path
    changes = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": MAX_LEN}
    tiny.make(name, folder, getattr(torch, dtype), **changes)
    return folder


def numbers(seed: int, length: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist())


# Few seeds, so that prompts share prefixes; few long lengths, so that attention over long contexts is cut anew.
PROMPTS = st.builds(
    lambda seed, length: numbers(seed, length),
    st.integers(0, 3),
    st.one_of(st.integers(1, 70), st.sampled_from([257, 530, 1000])),
)
REQUESTS = st.lists(
    st.builds(Request, PROMPTS, st.integers(1, 12), st.sampled_from([0.0, 0.9])), min_size=1, max_size=7
)
SETTINGS = st.builds(
    Settings,
    cpu_threads=st.sampled_from([1, 2, 3]),
    max_num_batched_tokens=st.sampled_from([9, 16, 33, 2048]),
    enable_prefix_caching=st.booleans(),
    num_gpu_blocks_override=st.sampled_from([65, 1024]),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(how=SETTINGS, requests=REQUESTS)
def test_any_company(bench: Bench, how: Settings, requests: list[Request]) -> None:
    bench.check(how, requests)


def test_after_a_prefix_hit(bench: Bench) -> None:
    how = Settings(cpu_threads=2, enable_prefix_caching=True)
    requests = [Request(numbers(5, length), 6) for length in (17, 33, 34, 48, 300)]
    for request in requests:
        bench.check(how, [request])
    for request, output in zip(requests, bench.check(how, requests), strict=True):
        assert output.num_cached_tokens == (len(request.prompt) - 1) // 16 * 16


@pytest.mark.parametrize("shared", [40, 288, 560])
def test_beside_others_with_the_same_prefix(bench: Bench, shared: int) -> None:
    """Attention reads the blocks that they share once for all of them."""
    how = Settings(cpu_threads=2, enable_prefix_caching=True)
    prefix = numbers(30, shared)
    requests = [Request(prefix + numbers(31 + index, 1 + 37 * index), 4 + index) for index in range(6)]
    bench.check(how, requests[:1])
    outputs = bench.check(how, requests)
    assert all(output.num_cached_tokens >= shared // 16 * 16 for output in outputs)


def test_after_preemption(bench: Bench) -> None:
    how = Settings(cpu_threads=3, max_num_batched_tokens=64, num_gpu_blocks_override=65)
    requests = [Request(numbers(10 + index, length), 30) for index, length in enumerate((990, 20, 40, 300, 3))]
    outputs = bench.check(how, requests)
    assert sum(output.metrics.num_preemptions for output in outputs if output.metrics) > 0


def test_several_answers_to_one_prompt(bench: Bench) -> None:
    """They share their prompt's last row of logits, and each goes on alone."""
    how = Settings(cpu_threads=2, max_num_batched_tokens=40)
    requests = [Request(numbers(20 + index, length), 5) for index, length in enumerate((21, 1, 33))]
    alone = bench.check(Settings(), requests)
    for one, several in zip(alone, bench.run(how, requests, n=2), strict=True):
        assert answer(several, 0) == answer(several, 1) == answer(one)
