"""The whole CUDA backend without a GPU: its tokens are the CPU's, whatever the step is made of."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from fake_driver import FakeEvent
from serving import VOCABULARY, Serving, serve, tiny_llama
from transformers import LlamaForCausalLM

from octavo._core import Failed, Plan
from octavo.engine.cuda_runner import CudaRunner
from octavo.errors import ModelError

ROUNDING = 0.02
"""What float16 may move, in parts of the largest logit."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    folder = tmp_path_factory.mktemp("tiny-llama")
    return folder, tiny_llama(folder)


@pytest.fixture
def folder(tiny: tuple[Path, LlamaForCausalLM]) -> Path:
    return tiny[0]


@pytest.fixture
def reference(tiny: tuple[Path, LlamaForCausalLM]) -> LlamaForCausalLM:
    return tiny[1]


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


PROMPTS = [prompt(length, seed) for seed, length in enumerate((1, 2, 17, 33, 60, 5))]


def distances(reference: LlamaForCausalLM, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """How far each token lies behind the one that Transformers finds best in float32, in parts of the largest logit."""
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    behind = logits.max(-1).values - logits[torch.arange(len(answer)), torch.tensor(answer)]
    return behind / logits.abs().max(-1).values


def greedy(serving: Serving, max_tokens: int = 12) -> list[list[int]]:
    numbers = [serving.submit(prompt, max_tokens) for prompt in PROMPTS]
    answers = serving.finish()
    return [answers[number, 0] for number in numbers]


@pytest.mark.parametrize(
    ("cache", "options", "scheduler"),
    [
        ({}, {}, {}),
        ({}, {"enforce_eager": True}, {}),
        ({"block_size": 1, "num_gpu_blocks_override": 400}, {}, {"max_num_batched_tokens": 8}),
        ({"block_size": 32, "enable_prefix_caching": False}, {"cudagraph_capture_sizes": (3,)}, {"max_num_seqs": 3}),
        ({"num_gpu_blocks_override": 9}, {}, {}),  # preemption
        ({}, {}, {"async_scheduling": False}),
    ],
    ids=["graphs", "eager", "page of 1, chunks of 8", "padded to 3", "preempted", "synchronous"],
)
def test_greedy_answers(
    folder: Path,
    reference: LlamaForCausalLM,
    monkeypatch: pytest.MonkeyPatch,
    cache: dict[str, Any],
    options: dict[str, Any],
    scheduler: dict[str, Any],
) -> None:
    serving = serve(folder, "cuda", monkeypatch, cache=cache, options=options, **scheduler)
    answers = greedy(serving)
    behind = torch.cat([distances(reference, *pair) for pair in zip(PROMPTS, answers, strict=True)])
    assert behind.max() <= ROUNDING
    assert (behind == 0).float().mean() >= 0.95
    if serving.driver is not None:
        assert (serving.driver.num_replays > 0) == (not options.get("enforce_eager"))
        assert (serving.driver.check_graphs() > 100) == (not options.get("enforce_eager"))
        assert serving.driver.most_in_flight == 1 + scheduler.get("async_scheduling", True)
    assert answers == greedy(serve(folder, "cpu", monkeypatch, cache=cache, **scheduler))


@pytest.mark.parametrize(("dtype", "kv_dtype"), [("bfloat16", "auto"), ("float16", "fp8")])
def test_other_types(
    folder: Path, reference: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, dtype: str, kv_dtype: str
) -> None:
    """Coarser: most tokens are the best ones."""
    answers = greedy(serve(folder, "cuda", monkeypatch, dtype=dtype, cache={"cache_dtype": kv_dtype}))
    behind = [distances(reference, prompt, answer) for prompt, answer in zip(PROMPTS, answers, strict=True)]
    assert (torch.cat(behind) == 0).float().mean() >= 0.8


def test_the_gpu_draws_what_the_cpus_sampler_draws(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices fork a shared block. A bias of nothing moves a sample to the CPU, which sees the same logits."""
    answers = []
    for bias in ([], [(0, 0.0)]):
        serving = serve(folder, "cuda", monkeypatch)
        serving.submit(PROMPTS[2], 10, n=3, temperature=0.7, seed=11, logit_bias=bias)
        serving.submit(PROMPTS[3], 10, temperature=1.0, top_k=5, top_p=0.9, min_p=0.02, seed=12)
        serving.submit(PROMPTS[5], 10, temperature=1.5, seed=13, logit_bias=bias)
        answers.append(serving.finish())
    assert answers[0] == answers[1]
    assert len(answers[0]) == 5


ASKED: list[tuple[int, dict[str, Any]]] = [
    (4, {"presence_penalty": 0.9, "repetition_penalty": 1.2, "logprobs": 3}),
    (2, {"frequency_penalty": 0.7, "n": 3, "temperature": 0.7, "seed": 11, "logprobs": 0}),
    (3, {"presence_penalty": -0.4, "frequency_penalty": 0.3, "temperature": 1.0, "top_k": 9, "seed": 21}),
    (5, {"repetition_penalty": 1.6, "min_tokens": 4, "ignore_eos": False, "stop_token_ids": [3]}),
    (1, {"logprobs": 20, "n": 2, "temperature": 1.2, "seed": 13}),
]


OUTPUTS = ("sampled", "sampled_logprob", "sampled_rank", "top_ids", "top_logprobs")


@pytest.mark.parametrize(
    ("cache", "scheduler"),
    [
        ({}, {}),
        ({}, {"async_scheduling": False}),
        ({"num_gpu_blocks_override": 9}, {}),
        ({"enable_prefix_caching": False}, {"max_num_batched_tokens": 9}),
    ],
    ids=["ahead", "synchronous", "preempted", "chunks of 9"],
)
def test_penalties_and_log_probabilities_are_the_cpu_samplers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cache: dict[str, Any], scheduler: dict[str, Any]
) -> None:
    """The CPU's sampler takes each step's samples again, from the same logits: what was before is known then."""
    execute, finish = CudaRunner.execute, CudaRunner.finish
    logits: dict[int, torch.Tensor] = {}
    num_samples: Counter[str] = Counter()

    def keep_logits(runner: CudaRunner, plan: Plan) -> None:
        execute(runner, plan)
        logits[plan.epoch] = runner._decoder._ops._logits[: plan.num_samples].clone()

    def sample_again(runner: CudaRunner, plan: Plan) -> None:
        finish(runner, plan)
        arena, count = runner._arena.host[plan.arena], plan.num_samples
        columns = {name: arena[name].reshape(8, -1)[:count] for name in OUTPUTS}
        from_gpu = {name: column.copy() for name, column in columns.items()}
        runner._sampler.sample(runner._engine, plan.epoch, logits.pop(plan.epoch).cpu().numpy())
        for name in ("sampled", "sampled_rank"):
            assert from_gpu[name].tolist() == columns[name].tolist()
        np.testing.assert_allclose(from_gpu["sampled_logprob"], columns["sampled_logprob"], rtol=1e-4, atol=1e-5)
        for sample, asked in enumerate(arena["num_logprobs"][:count]):
            top = slice(0, max(asked, 0))
            assert from_gpu["top_ids"][sample, top].tolist() == columns["top_ids"][sample, top].tolist()
            actual, expected = from_gpu["top_logprobs"][sample, top], columns["top_logprobs"][sample, top]
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
        num_samples.update(all=count, on_host=plan.num_host_samples)

    monkeypatch.setattr(CudaRunner, "execute", torch.inference_mode()(keep_logits))
    monkeypatch.setattr(CudaRunner, "finish", sample_again)
    serving = serve(folder, "cuda", monkeypatch, cache=cache, **scheduler)
    for prompt, sampling in ASKED:
        serving.submit(PROMPTS[prompt], 16, **sampling)
    answers = serving.finish()
    assert len(answers) == 8
    assert num_samples["on_host"] <= num_samples["all"] / 4
    if "num_gpu_blocks_override" in cache:
        assert serving.num_preemptions > 0
    if serving.driver is not None:
        assert serving.driver.most_in_flight == 1 + scheduler.get("async_scheduling", True)


def test_what_the_cpu_samples_for_the_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for device in ("cuda", "cpu"):
        serving = serve(folder, device, monkeypatch)
        serving.submit(PROMPTS[4], 10, presence_penalty=0.9, repetition_penalty=1.2, logprobs=3)
        plain = serving.submit(PROMPTS[1], 10)
        biased = serving.submit(PROMPTS[1], 10, logit_bias=[(7, 100.0)])
        masked = serving.submit(PROMPTS[1], 7, reasoning_end=[7, 8], thinking_token_budget=3)
        answers.append(serving.finish())
        assert answers[-1][biased, 0] == [7] * 10 != answers[-1][plain, 0]
        assert answers[-1][masked, 0][:5] == [*answers[-1][plain, 0][:3], 7, 8]
    assert answers[0] == answers[1]


def test_beams_have_the_log_probabilities_of_the_reference(
    folder: Path, reference: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beam that is computed over another's blocks has other logits."""
    serving = serve(folder, "cuda", monkeypatch, cache={"num_gpu_blocks_override": 16})
    prompts = {serving.submit(PROMPTS[index], 14, beam_width=4, n=4, logprobs=0): PROMPTS[index] for index in (2, 3)}
    serving.submit(PROMPTS[1], 30)
    deltas = [delta for delta in serving.deltas() if delta.request in prompts]
    assert len(deltas) == 8
    for delta in deltas:
        prompt, answer, logprobs = prompts[delta.request], delta.token_ids, delta.logprobs
        assert logprobs is not None
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, dim=-1)[torch.arange(14), answer]
        torch.testing.assert_close(torch.tensor([entry.logprob for entry in logprobs]), expected, rtol=0, atol=0.05)


def test_a_logits_processor_sees_the_gpus_logits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serving = serve(folder, "cuda", monkeypatch)
    plain = serving.submit(PROMPTS[1], 10)
    processors = serving.backend.logits_processors
    assert processors is not None
    seen = serving.submit(PROMPTS[1], 10, logits_processors=True)
    processors.add(seen, [lambda _output, logits: logits])
    forced = serving.submit(PROMPTS[4], 10, logits_processors=True)
    processors.add(forced, [lambda output, logits: np.where(np.arange(logits.size) == 5 + len(output), 0, -np.inf)])
    answers = serving.finish()
    assert answers[plain, 0] == answers[seen, 0]
    assert answers[forced, 0] == list(range(5, 15))


def test_prompts_are_scored_by_the_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside others that decode, and in chunks."""
    tokens, scores = [], []
    for device in ("cuda", "cpu"):
        serving = serve(folder, device, monkeypatch)
        requests = [serving.submit(prompt, 10, prompt_logprobs=2, logprobs=1) for prompt in PROMPTS]
        serving.submit(PROMPTS[1], 20, presence_penalty=0.3)
        tokens.append(serving.finish())
        assert [len(serving.scores[request]) for request in requests] == [len(prompt) - 1 for prompt in PROMPTS]
        scores.append([score for request in requests for score in serving.scores[request]])
    assert tokens[0] == tokens[1]
    np.testing.assert_allclose([each[0] for each in scores[0]], [each[0] for each in scores[1]], atol=0.05)


def test_pythons_work_does_not_depend_on_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for batch in (2, 8):
        serving = serve(folder, "cuda", monkeypatch, options={"cudagraph_capture_sizes": (8,)})
        for index in range(batch):
            serving.submit([index + 1, 2], max_tokens=60)
        while serving.engine.stats.num_running < batch:  # they arrive one by one
            serving.loop.turn(timeout=0.1)
        for _ in range(4):
            serving.loop.turn(timeout=0.1)
        counts.append(python_calls(lambda loop=serving.loop: loop.turn(timeout=0.1)))
        serving.finish()
    assert counts[0] == counts[1]


def python_calls(work: Callable[[], object]) -> Counter[str]:
    """How often each function is called."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            calls[frame.f_code.co_name] += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("place", ["upload", "download", "record"])
def test_a_broken_step_ends_its_requests_and_no_others(
    folder: Path, reference: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    serving = serve(folder, "cuda", monkeypatch)
    doomed = serving.submit(PROMPTS[2], 60)
    while serving.engine.stats.generation_tokens < 5:
        serving.loop.turn(timeout=0.1)
    if serving.driver is None:
        pytest.skip("breaks a driver that is not real")
    broken = FakeEvent(serving.driver, [lambda: 1 / 0])
    works = getattr(serving.driver, place)
    with monkeypatch.context() as patch:
        # A step fails while it is enqueued, or when it is waited for and the next one is in flight.
        patch.setattr(serving.driver, place, (lambda: broken) if place == "record" else (lambda *_: 1 / 0))
        serving.loop.turn(timeout=0.1)
        patch.setattr(serving.driver, place, works)
        events: list[Any] = []
        while serving.frontend.num_open:
            serving.loop.turn(timeout=0.01)
            serving.engine.check_integrity()
            events += serving.frontend.drain()
        events += serving.frontend.drain()
    (failure,) = [event for event in events if isinstance(event, Failed)]
    assert failure.request == doomed
    assert "ZeroDivisionError" in failure.message
    answers = greedy(serving)
    behind = torch.cat([distances(reference, *pair) for pair in zip(PROMPTS, answers, strict=True)])
    assert behind.max() <= ROUNDING


def test_memory_that_runs_out_is_an_error_that_names_the_flags(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for place, what in (("executor.cuda.load_parameters", "the weights"), ("executor.cuda.CudaCache", "the KV cache")):
        with monkeypatch.context() as patch:
            patch.setattr(f"octavo.engine.{place}", full)
            with pytest.raises(ModelError, match=f"ran out for {what}") as error:
                serve(folder, "cuda", patch)
        for flag in ("--gpu-memory-utilization", "--max-num-batched-tokens", "--max-num-seqs", "--max-model-len 64"):
            assert flag in str(error.value)
