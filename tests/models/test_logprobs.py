"""Log-probabilities of prompts and answers: Transformers' log_softmax, and the same bits however the engine runs."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import PreTrainedModel

from octavo import LLM, RequestOutput, SamplingParams, TokensPrompt

TOLERANCE = 1e-4
PROMPTS = [[7], [5, 9], list(range(20, 57)), [3, 1, 4, 1, 5, 9, 2, 6] * 4]
PARAMS = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, logprobs=4, prompt_logprobs=3)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"max_num_batched_tokens": 8, "max_num_seqs": 2},
    {"max_num_seqs": 1},
    {"enable_chunked_prefill": False},
    {"num_gpu_blocks_override": 6},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp("logprobs")
    model = tiny.make("llama", folder)
    model.folder = folder
    return model


@pytest.fixture(params=["native", "torch"])
def executor(request: pytest.FixtureRequest) -> str:
    return request.param


def make(folder: Path, executor: str, **options: Any) -> LLM:
    fixed = {"max_model_len": 64, "cpu_threads": 2, "dtype": "float32"}
    return LLM(str(folder), executor=executor, **{**fixed, **options})


def run(llm: LLM, params: SamplingParams = PARAMS) -> list[RequestOutput]:
    return llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in PROMPTS], params, use_tqdm=False)


def check(model: PreTrainedModel, output: RequestOutput) -> None:
    """Each entry of `output` is what Transformers says of its token."""
    choice = output.outputs[0]
    tokens = [*output.prompt_token_ids, *choice.token_ids]
    with torch.inference_mode():
        gold = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
    assert output.prompt_logprobs is not None
    assert choice.logprobs is not None
    assert output.prompt_logprobs[0] is None
    entries = [*output.prompt_logprobs[1:], *choice.logprobs]
    num_listed = [3] * (len(output.prompt_token_ids) - 1) + [4] * len(choice.token_ids)
    for position, (token, listed, count) in enumerate(zip(tokens[1:], entries, num_listed, strict=True)):
        assert listed is not None
        assert next(iter(listed)) == token
        best = gold[position].topk(count).indices.tolist()
        assert set(listed) == {token, *best}
        for other, entry in listed.items():
            assert entry.logprob == pytest.approx(float(gold[position, other]), abs=TOLERANCE)
            assert entry.rank == 1 + int((gold[position] > gold[position, other]).sum())
            assert entry.decoded_token == f"t{other}"


def test_they_are_those_of_transformers(model: PreTrainedModel, executor: str) -> None:
    with make(model.folder, executor) as llm:
        for output in run(llm):
            check(model, output)
        # Once more, when the prefix cache holds the prompts.
        for output in run(llm):
            check(model, output)
            assert output.num_cached_tokens == 0
        llm.llm_engine.core.check_integrity()


def test_the_same_bits_in_every_batch(model: PreTrainedModel) -> None:
    golden = None
    for options in SETTINGS:
        with make(model.folder, "native", **options) as llm:
            seen = [(output.prompt_logprobs, output.outputs[0].logprobs) for output in run(llm)]
            golden = golden or seen
            assert seen == golden, options
            llm.llm_engine.core.check_integrity()


def test_choices_share_a_scored_prompt(model: PreTrainedModel, executor: str) -> None:
    params = SamplingParams(temperature=1.0, seed=3, n=3, max_tokens=4, ignore_eos=True, prompt_logprobs=0)
    with make(model.folder, executor, max_num_seqs=4) as llm:
        for output, ids in zip(run(llm, params), PROMPTS, strict=True):
            assert output.prompt_logprobs is not None
            assert len(output.prompt_logprobs) == len(ids)
            assert [list(entry) for entry in output.prompt_logprobs if entry] == [[token] for token in ids[1:]]
            assert len({tuple(choice.token_ids) for choice in output.outputs}) > 1


def test_the_whole_vocabulary_and_named_tokens(model: PreTrainedModel, executor: str) -> None:
    every = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True, logprobs=-1, prompt_logprobs=-1)
    named = SamplingParams(
        temperature=0.0, max_tokens=3, ignore_eos=True, logprob_token_ids=[130, 4, 60, *range(70, 120)]
    )
    with make(model.folder, executor, max_logprobs=-1) as llm:
        for all_of_them, some in zip(run(llm, every), run(llm, named), strict=True):
            whole, chosen = all_of_them.outputs[0].logprobs, some.outputs[0].logprobs
            assert whole is not None
            assert chosen is not None
            assert all(len(entries) == model.config.vocab_size for entries in whole)
            assert all(len(entry) == model.config.vocab_size for entry in all_of_them.prompt_logprobs[1:] if entry)
            for token, entries, listed in zip(some.outputs[0].token_ids, whole, chosen, strict=True):
                assert list(listed) == list(dict.fromkeys([token, 130, 4, 60, *range(70, 120)]))
                assert all(listed[other].logprob == entries[other].logprob for other in listed)
                assert sum(torch.tensor([entry.logprob for entry in entries.values()]).exp()) == pytest.approx(
                    1, abs=1e-4
                )


def test_the_limit_holds_for_both(model: PreTrainedModel) -> None:
    with make(model.folder, "native", max_logprobs=5) as llm:
        for given in ({"logprobs": 6}, {"logprobs": -1}, {"prompt_logprobs": 6}, {"prompt_logprobs": -1}):
            with pytest.raises(ValueError, match="log-probabilities"):
                run(llm, SamplingParams(**given))
        assert len(run(llm, SamplingParams(logprobs=5, prompt_logprobs=5))) == len(PROMPTS)
