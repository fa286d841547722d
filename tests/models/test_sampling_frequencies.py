"""What an engine draws, from a request's parameters to its tokens, has the frequencies that Transformers' logits give.

The sampler's own tests (rust/octavo-kernels) hold it to exact probabilities in detail; here the whole way is held to
them, by chi-square.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from octavo import LLM, SamplingParams, TokensPrompt

PROMPT = [5, 9, 9, 20, 33]
DRAWS = 2048
PARAMETERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.8, "top_k": 7},
    {"top_p": 0.7},
    {"min_p": 0.15},
    {"repetition_penalty": 2.0},
    {"logit_bias": {9: 3.0, 20: -100.0, 40: 2.0}},
    {"allowed_token_ids": [9, 20, 50, 51, 52]},
    {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
]


@pytest.fixture(scope="module")
def logits_and_llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[torch.Tensor, LLM]]:
    folder: Path = tmp_path_factory.mktemp("frequencies")
    model = tiny.make("llama", folder)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([PROMPT])).logits[0, -1].double()
    with LLM(str(folder), executor="native", dtype="float32", max_model_len=64, max_num_seqs=128) as llm:
        yield logits, llm


def probabilities(logits: torch.Tensor, parameters: dict[str, Any]) -> torch.Tensor:
    """By sorting everything, in vLLM's order."""
    logits = logits.clone()
    if allowed := parameters.get("allowed_token_ids"):
        kept = logits[allowed]
        logits[:] = -torch.inf
        logits[allowed] = kept
    for token, bias in parameters.get("logit_bias", {}).items():
        logits[token] += bias
    penalty = parameters.get("repetition_penalty", 1.0)
    for token in set(PROMPT):
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    chances = (logits / parameters.get("temperature", 1.0)).softmax(-1)
    chances[chances < parameters.get("min_p", 0.0) * chances.max()] = 0
    if top_k := parameters.get("top_k"):
        chances[chances < chances.topk(top_k).values[-1]] = 0
    chances /= chances.sum()
    order = chances.argsort(descending=True)
    before = chances[order].cumsum(0) - chances[order]
    chances[order[before >= parameters.get("top_p", 1.0)]] = 0
    return chances / chances.sum()


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda parameters: "+".join(parameters) or "plain")
def test_frequencies(logits_and_llm: tuple[torch.Tensor, LLM], parameters: dict[str, Any]) -> None:
    logits, llm = logits_and_llm
    expected = probabilities(logits, parameters) * DRAWS
    params = [SamplingParams(n=128, seed=seed, max_tokens=1, **parameters) for seed in range(DRAWS // 128)]
    outputs = llm.generate([TokensPrompt(prompt_token_ids=PROMPT)] * len(params), params, use_tqdm=False)
    seen = Counter(choice.token_ids[0] for output in outputs for choice in output.outputs)
    assert sum(seen.values()) == DRAWS
    assert all(expected[token] > 0 for token in seen)
    often = (expected >= 5).nonzero().flatten().tolist()
    bins = [(seen[token], float(expected[token])) for token in often]
    rare = (DRAWS - sum(count for count, _ in bins), DRAWS - sum(mean for _, mean in bins))
    bins += [rare] if rare[1] > 0.5 else []
    chi_square = sum((count - mean) ** 2 / mean for count, mean in bins)
    freedom = max(len(bins) - 1, 1)
    # Six standard deviations: the draws are the same in every run, so a right sampler passes always.
    assert chi_square < freedom + 6 * (2 * freedom) ** 0.5 + 6


def test_a_seed_gives_the_same_tokens_whatever_else_runs(logits_and_llm: tuple[torch.Tensor, LLM]) -> None:
    _, llm = logits_and_llm
    prompt = TokensPrompt(prompt_token_ids=PROMPT)
    params = SamplingParams(seed=11, temperature=1.5, max_tokens=20, ignore_eos=True, frequency_penalty=0.3)
    (alone,) = llm.generate(prompt, params, use_tqdm=False)
    others = [SamplingParams(temperature=2.0, max_tokens=length, ignore_eos=True) for length in range(1, 30)]
    among = llm.generate([prompt] * 30, [*others[:13], params, *others[13:]], use_tqdm=False)
    assert among[13].outputs[0].token_ids == alone.outputs[0].token_ids
