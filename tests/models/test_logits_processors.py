"""Logits processors: what they see, what they decide, and whom they leave alone."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import make

from octavo import LLM, EngineArgs, LLMEngine, RequestOutput, SamplingParams, TokensPrompt

Logits = NDArray[np.float32]
VOCAB_SIZE = 131
PROMPTS = [TokensPrompt(prompt_token_ids=ids) for ids in ([5, 9, 17], [80, 44, 2, 7])]
LIMITS: dict[str, Any] = {
    "max_num_seqs": 4,
    "max_num_batched_tokens": 64,
    "block_size": 4,
    "device": "cpu",
    "num_gpu_blocks_override": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("processors")
    make("llama", made)
    return made


@pytest.fixture(scope="module", params=["native", "torch"])
def llm(request: pytest.FixtureRequest, folder: Path) -> Iterator[LLM]:
    with LLM(str(folder), executor=request.param, **LIMITS) as made:
        yield made


def params(*processors: Any, **options: Any) -> SamplingParams:
    given = {"temperature": 0.0, "max_tokens": 6, "ignore_eos": True, "logits_processors": processors or None}
    return SamplingParams(**{**given, **options})


def count_up(output: list[int], logits: Logits) -> Logits:
    """Token 20, then 21, …"""
    changed = np.full_like(logits, -np.inf)
    changed[20 + len(output)] = 0
    return changed


def tokens(output: RequestOutput) -> list[int]:
    return output.outputs[0].token_ids


def test_a_processor_decides_for_its_request_alone(llm: LLM) -> None:
    plain = [tokens(output) for output in llm.generate(PROMPTS, params(), use_tqdm=False)]
    found = llm.generate([PROMPTS[0], *PROMPTS], [params(count_up), params(), params()], use_tqdm=False)
    assert [tokens(output) for output in found] == [[20, 21, 22, 23, 24, 25], *plain]


def test_a_processor_sees_prompt_output_and_logits(llm: LLM) -> None:
    seen = []

    def look(prompt: list[int], output: list[int], logits: Logits) -> Logits:
        assert logits.dtype == np.float32
        assert logits.shape == (VOCAB_SIZE,)
        seen.append((prompt, output, int(logits.argmax())))
        return logits

    (found,) = llm.generate(PROMPTS[1], params(look), use_tqdm=False)
    expected = tokens(found)
    assert expected == tokens(llm.generate(PROMPTS[1], params(), use_tqdm=False)[0])
    assert seen == [([80, 44, 2, 7], expected[:index], token) for index, token in enumerate(expected)]


def test_processors_follow_each_other_and_may_return_tensors(llm: LLM) -> None:
    def halve(_output: list[int], logits: Logits) -> Logits:
        logits *= 0.5
        return logits

    def only(_output: list[int], logits: Logits) -> torch.Tensor:
        kept = torch.full((VOCAB_SIZE,), -torch.inf)
        kept[[3, 8]] = torch.from_numpy(logits)[[3, 8]]
        return kept

    for choice in llm.generate(PROMPTS[0], params(halve, only, n=3, temperature=1.0, seed=3), use_tqdm=False)[
        0
    ].outputs:
        assert set(choice.token_ids) <= {3, 8}


def test_log_probabilities_are_of_what_the_processors_leave(llm: LLM) -> None:
    (found,) = llm.generate(PROMPTS[0], params(count_up, logprobs=1), use_tqdm=False)
    assert found.outputs[0].cumulative_logprob == 0.0


def test_beams_are_of_what_the_processors_leave(llm: LLM) -> None:
    searched = params(count_up, use_beam_search=True, n=1)
    assert tokens(llm.generate(PROMPTS[0], searched, use_tqdm=False)[0]) == [20, 21, 22, 23, 24, 25]


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (lambda _output, _logits: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda _output, _logits: None, "TypeError: .* returned None"),
        (lambda _output, logits: logits[:5], r"ValueError: .* shape \(5,\), not \(131,\)"),
    ],
)
def test_a_processor_that_fails_ends_its_call_with_the_reason(llm: LLM, processor: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^logits_processors: {message}") as raised:
        llm.generate(PROMPTS, [params(processor), params()], use_tqdm=False)
    assert raised.value.__cause__ is not None
    assert len(tokens(llm.generate(PROMPTS[0], params(), use_tqdm=False)[0])) == 6
    llm.llm_engine.core.check_integrity()


def test_a_processor_that_fails_leaves_other_requests_alone(folder: Path) -> None:
    def fails_late(output: list[int], logits: Logits) -> Logits:
        return logits if len(output) < 3 else logits[:0]

    engine = LLMEngine.from_engine_args(EngineArgs(str(folder), **LIMITS))
    engine.add_request("bad", PROMPTS[0], params(fails_late))
    engine.add_request("good", PROMPTS[1], params())
    finished, failures = [], []
    while engine.has_unfinished_requests():
        try:
            finished += [output for output in engine.step() if output.finished]
        except RuntimeError as error:
            failures.append(str(error))
    assert [(output.request_id, len(tokens(output))) for output in finished] == [("good", 6)]
    assert len(failures) == 1
    assert "fails_late returned logits of shape (0,)" in failures[0]
    engine.shutdown()


def test_processors_of_the_engine_are_for_every_request(folder: Path) -> None:
    def keep_even(_output: list[int], logits: Logits) -> Logits:
        logits[1::2] = -np.inf
        return logits

    with LLM(str(folder), logits_processors=[keep_even], **LIMITS) as llm:
        for output in llm.generate(PROMPTS, params(temperature=1.0), use_tqdm=False):
            assert all(token % 2 == 0 for token in tokens(output))
        assert tokens(llm.generate(PROMPTS[0], params(count_up), use_tqdm=False)[0])[0] == 20


def test_a_step_without_processors_does_not_know_of_them(llm: LLM) -> None:
    called = []
    code = type(llm.llm_engine.backend.logits_processors).apply.__code__

    def trace(frame: Any, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code is code:
            called.append(frame)

    sys.setprofile(trace)
    try:
        llm.generate(PROMPTS, params(), use_tqdm=False)
        assert not called
        llm.generate(PROMPTS, params(count_up), use_tqdm=False)
    finally:
        sys.setprofile(None)
    assert called


@pytest.mark.parametrize("wrong", ["my.Processor", [3], [dict], ["my.Processor"], [lambda logits: logits]])
def test_what_cannot_be_a_processor_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^logits_processors: "):
        SamplingParams(logits_processors=wrong)
    with pytest.raises(ValueError, match=r"^logits_processors: "):
        LLM("nowhere", logits_processors=wrong)
