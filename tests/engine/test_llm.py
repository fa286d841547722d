"""`LLM` on the null backend: what goes in, what comes out, what is refused."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.config import EngineConfig, ModelConfig, SchedulerConfig
from octavo.engine.start import NO_MODEL

TOKEN = 16_000
"""What the null backend samples from a vocabulary of 32,000."""


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    config = EngineConfig(
        model=ModelConfig(model=NO_MODEL, max_model_len=256),
        scheduler=SchedulerConfig(max_num_seqs=8),
        backend="null",
    )
    with LLM.from_config(config) as made:
        yield made


@pytest.fixture(autouse=True)
def whole(llm: LLM) -> Iterator[None]:
    yield
    assert llm.llm_engine.frontend.num_open == 0
    assert llm.llm_engine.core.stats.num_used_blocks == 0
    llm.llm_engine.core.check_integrity()


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = [[1] * (1 + index) for index in range(30)]
    outputs = llm.generate(prompts, SamplingParams(max_tokens=7), use_tqdm=False)
    assert [output.prompt_token_ids for output in outputs] == prompts
    for output in outputs:
        assert output.finished
        assert output.outputs[0].token_ids == [TOKEN] * 7
        assert output.outputs[0].finish_reason == "length"
        assert output.metrics is not None


def test_one_list_of_ids_is_one_prompt(llm: LLM) -> None:
    (output,) = llm.generate([5, 6, 7], use_tqdm=False)
    assert output.prompt_token_ids == [5, 6, 7]
    assert len(output.outputs[0].token_ids) == 16


def test_dictionaries_and_parameters_one_each(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=2), SamplingParams(max_tokens=3, n=2)]
    outputs = llm.generate(
        [{"prompt_token_ids": [1]}, {"prompt_token_ids": [2], "prompt": "two", "cache_salt": "a"}],
        params,
        use_tqdm=False,
    )
    assert [[len(choice.token_ids) for choice in output.outputs] for output in outputs] == [[2], [3, 3]]
    assert [output.prompt for output in outputs] == [None, "two"]


def test_nothing_asked_is_nothing_returned(llm: LLM) -> None:
    assert llm.generate([], use_tqdm=False) == []


def test_max_tokens_none_is_the_rest_of_the_context(llm: LLM) -> None:
    (output,) = llm.generate([5, 6, 7], SamplingParams(max_tokens=None), use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 253


@pytest.mark.parametrize(
    ("prompts", "params", "match"),
    [
        ([[1], []], None, "prompt"),
        ([[], [], [1], [], []], None, "prompt"),
        ([[1], [40_000]], None, "prompt"),
        ([[1], [-1]], None, "prompt"),
        ([[1] * 300], None, "prompt"),
        (["text"], None, "prompt"),
        (7, None, "prompts"),
        ([{"prompts": "x"}], None, "prompts"),
        ([{"prompt": "x", "multi_modal_data": {"image": 1}}], None, "multi_modal_data"),
        ([[1], [2]], [SamplingParams()], "sampling_params"),
    ],
)
def test_bad_input_is_a_value_error_and_the_next_call_works(llm: LLM, prompts: Any, params: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        llm.generate(prompts, params, use_tqdm=False)
    (output,) = llm.generate([[1, 2]], SamplingParams(max_tokens=3), use_tqdm=False)
    assert output.outputs[0].token_ids == [TOKEN] * 3


def test_priorities_need_the_policy_that_heeds_them(llm: LLM) -> None:
    assert llm.generate([[1]], priority=[0], use_tqdm=False)[0].finished
    with pytest.raises(ValueError, match="priority"):
        llm.generate([[1]], priority=[1], use_tqdm=False)


def test_an_interrupt_ends_the_requests(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = llm.llm_engine.backend.execute
    steps = 0

    def interrupted(plan: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        execute(plan)

    with monkeypatch.context() as patch:
        patch.setattr(llm.llm_engine.backend, "execute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate([[1], [2]], SamplingParams(max_tokens=200), use_tqdm=False)
    (output,) = llm.generate([[3]], SamplingParams(max_tokens=3), use_tqdm=False)
    assert output.outputs[0].token_ids == [TOKEN] * 3


def test_the_progress_bar_counts_requests(llm: LLM, capfd: pytest.CaptureFixture[str]) -> None:
    llm.generate([[1], [2]], SamplingParams(max_tokens=3))
    shown = capfd.readouterr().err
    assert "2/2" in shown
    assert "tokens/s" in shown


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"max_modellen": 5}, TypeError, "did you mean max_model_len"),
        ({"quantization": "awq"}, ValueError, "quantization: octavo does not do awq yet; it does int8, int4, gguf"),
        ({"kv_cache_dtype": "fp4"}, ValueError, "kv_cache_dtype: must be one of auto, float32.*fp8, not 'fp4'"),
        ({"dtype": "int3"}, ValueError, "dtype: must be one of"),
        ({"executor": "cuda"}, ValueError, "executor: must be one of auto, native, torch"),
        ({"load_format": "pt"}, ValueError, "load_format: octavo does not do pt yet"),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ],
)
def test_arguments_that_are_not_done_are_named(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        LLM("anything", **arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n": 0}, "n: "),
        ({"n": 10**30}, "n: "),
        ({"temperature": -1}, "temperature: "),
        ({"temperature": float("nan")}, "temperature: "),
        ({"temperature": 10**400}, "temperature: "),
        ({"top_p": 0}, "top_p: "),
        ({"top_k": -2}, "top_k: "),
        ({"seed": 2**70}, "seed: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"stop": [""]}, "stop: "),
        ({"stop": "x", "detokenize": False}, "stop: "),
        ({"logit_bias": {-3: 1.0}}, "logit_bias: "),
        ({"prompt_logprobs": -2}, "prompt_logprobs: "),
        ({"logprob_token_ids": [-1]}, "logprob_token_ids: "),
        ({"allowed_token_ids": []}, "allowed_token_ids: "),
        ({"bad_words": [" "]}, "bad_words: "),
        ({"structured_outputs": {"json": 5}}, "structured_outputs: json: "),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs: json: "),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs: regex and choice"),
        ({"structured_outputs": {"yaml": "a"}}, "structured_outputs: "),
        ({"structured_outputs": {"regex": "a"}, "guided_decoding": {"regex": "a"}}, "guided_decoding: "),
        ({"guided_decoding": {"choice": []}}, "structured_outputs: choice: "),
        ({"thinking_token_budget": 3}, "thinking_token_budget: "),
        ({"n": 3, "best_of": 2}, "best_of: "),
        ({"repetition_detection": {"max_pattern_size": 3, "min_count": 1}}, "repetition_detection: "),
    ],
)
def test_sampling_parameters_out_of_range_are_named(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SamplingParams(**arguments)


def test_sampling_parameters_that_ask_for_nothing_pass() -> None:
    params = SamplingParams(top_k=-1, seed=-1, bad_words=[], best_of=1, stop="x", logit_bias={5: 200.0})
    assert repr(params) == "SamplingParams(top_k=-1, seed=-1, stop='x', logit_bias={5: 200.0}, bad_words=[], best_of=1)"


def test_neither_torch_nor_the_server_is_imported_before_it_is_needed() -> None:
    code = "import sys, octavo; octavo.LLM; print(sorted({'torch', 'aiohttp', 'jinja2'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


NATIVE = """
import sys
from octavo import LLM, SamplingParams
with LLM(sys.argv[1], load_format="dummy", max_model_len=64) as llm:
    (output,) = llm.generate([1, 2, 3], SamplingParams(max_tokens=4, ignore_eos=True), use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 4
    assert type(llm.llm_engine.backend).__name__ == "NativeExecutor"
print(sorted({"torch", "transformers", "gguf", "safetensors", "aiohttp"} & set(sys.modules)))
"""


def test_a_model_runs_without_torch(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 9, "max_position_embeddings": 64, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    shown = subprocess.run([sys.executable, "-c", NATIVE, tmp_path], capture_output=True, text=True, check=False)
    assert shown.stdout.strip() == "[]", shown.stderr
