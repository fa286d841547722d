"""`octavo serve`'s words become options, or one clear line."""

from pathlib import Path

import msgspec
import pytest

from octavo.cli.arguments import ALL_FLAGS, FLAGS, UsageError, Values, check, to_configs, to_words
from octavo.cli.flags import SECTIONS
from octavo.cli.known import SPECULATION
from octavo.cli.serve import serve_values
from octavo.config import EngineConfig, ServerConfig


def configs(*words: str, environment: dict[str, str] | None = None) -> tuple[EngineConfig, ServerConfig]:
    values = serve_values(list(words))
    check(values)
    return to_configs(values, environment or {})


def refusal(*words: str) -> str:
    with pytest.raises(UsageError) as raised:
        configs(*words)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_every_option_has_one_flag() -> None:
    targets = [flag.target for flag in FLAGS]
    options = {
        f"{section}.{option.name}" for section, struct in SECTIONS.items() for option in msgspec.structs.fields(struct)
    }
    without = options - set(targets) - {f"engine.{section}" for section in SECTIONS}
    assert len(set(targets)) == len(targets)
    assert set(targets) <= options
    assert all(name.startswith("server.") for name in without), "limits of the server alone may do without a flag"


def test_no_flag_stands_in_two_tables() -> None:
    names = [flag.name for flag in ALL_FLAGS]
    assert len(set(names)) == len(names)


def test_defaults_are_those_of_config() -> None:
    engine, server = configs("some-model")
    assert engine.model.model == "some-model"
    assert engine == EngineConfig(model=engine.model)
    assert server == ServerConfig()
    assert engine.cache.enable_prefix_caching
    assert engine.scheduler.enable_chunked_prefill


def test_each_flag_reaches_its_option() -> None:
    engine, server = configs(
        *("--model=m", "--tokenizer=t", "--revision=r", "--hf-token=secret", "--dtype=half", "--max-model-len=4k"),
        *("--load-format=gguf", "--trust-remote-code", "--seed=7", "--block-size=32", "--no-enable-prefix-caching"),
        *(
            "--gpu-memory-utilization=.5",
            "--kv-cache-memory-bytes=2G",
            "--num-gpu-blocks-override=9",
            "--max-num-seqs=4",
        ),
        *("--max-num-batched-tokens=1K", "--no-enable-chunked-prefill", "--scheduling-policy=priority"),
        *("--max-num-queued-reqs=5", "--long-prefill-token-threshold=64", "--max-logprobs=3", "--device=cpu"),
        *("--cpu-threads=2", "--enforce-eager", "-tp", "1", "-pp", "1", "--host=::1", "--port=0", "--uds=/s"),
        *("--quantization=int8", "--kv-cache-dtype=int8_per_token_head", "--executor=native"),
        *("--chat-template=x", "--enable-log-requests", "--shutdown-timeout=1.5"),
    )
    assert engine.model.dtype == "float16"
    assert engine.model.max_model_len == 4000
    assert (engine.model.tokenizer, engine.model.revision, engine.model.hf_token) == ("t", "r", "secret")
    assert (engine.model.load_format, engine.model.trust_remote_code, engine.model.seed) == ("gguf", True, 7)
    assert (engine.cache.block_size, engine.cache.enable_prefix_caching) == (32, False)
    assert (engine.cache.gpu_memory_utilization, engine.cache.kv_cache_memory_bytes) == (0.5, 2 << 30)
    assert engine.cache.num_gpu_blocks_override == 9
    assert (engine.scheduler.max_num_seqs, engine.scheduler.max_num_batched_tokens) == (4, 1024)
    assert (engine.scheduler.enable_chunked_prefill, engine.scheduler.policy) == (False, "priority")
    assert (engine.scheduler.max_num_queued_reqs, engine.scheduler.long_prefill_token_threshold) == (5, 64)
    assert (engine.scheduler.max_logprobs, engine.device.device, engine.device.cpu_threads) == (3, "cpu", 2)
    assert engine.device.enforce_eager
    assert (engine.model.quantization, engine.cache.cache_dtype, engine.device.executor) == ("int8", "int8", "native")
    assert (server.host, server.port, server.uds, server.chat_template) == ("::1", 0, "/s", "x")
    assert (server.enable_log_requests, server.shutdown_timeout) == (True, 1.5)


def test_underscores_and_positional_model() -> None:
    assert configs("m", "--max_num_seqs", "3", "--no_enable_prefix_caching") == configs(
        "--model", "m", "--max-num-seqs=3", "--no-enable-prefix-caching"
    )
    assert "two models" in refusal("m", "--model", "other")
    assert "which model?" in refusal()


@pytest.mark.parametrize(
    ("word", "size"), [("12", 12), ("2k", 2000), ("2K", 2048), ("1.5k", 1500), ("1.5M", 3 << 19), ("3m", 3_000_000)]
)
def test_sizes(word: str, size: int) -> None:
    assert configs("m", "--max-model-len", word)[0].model.max_model_len == size


@pytest.mark.parametrize("word", ["auto", "-1"])
def test_max_model_len_auto(word: str) -> None:
    assert configs("m", "--max-model-len", word)[0].model.max_model_len is None


def test_names_and_keys_are_lists_and_repeatable() -> None:
    _, server = configs("m", "--api-key", "a", "b", "--api-key=c", "--served-model-name", "x", "y")
    assert server.api_keys == ("a", "b", "c")
    assert server.served_model_names == ("x", "y")


def test_keys_from_the_environment() -> None:
    environment = {"OCTAVO_API_KEY": "a", "VLLM_API_KEY": "b"}
    assert configs("m", environment=environment)[1].api_keys == ("a", "b")
    assert configs("m", "--api-key", "c", environment=environment)[1].api_keys == ("c",)
    assert configs("m", environment={"VLLM_API_KEY": ""})[1].api_keys == ()
    environment = {"OCTAVO_ADMIN_API_KEY": "admin"}
    assert configs("m", environment=environment)[1].admin_api_keys == ("admin",)
    assert configs("m", "--admin-api-key", "b", environment=environment)[1].admin_api_keys == ("b",)


NO_SPECULATION = f"--speculative-config: octavo does not do this yet; {SPECULATION}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--enabel-lora"], "unknown flag --enabel-lora; did you mean --enable-lora?"),
        (["--max-num-sqs", "3"], "unknown flag --max-num-sqs; did you mean --max-num-seqs?"),
        (["--xyzzy"], "unknown flag --xyzzy"),
        (["--max-num"], "unknown flag --max-num; did you mean --max-num-seqs?"),
        (["--enable-lora"], "--enable-lora: octavo does not do this yet"),
        (["--enable-lora", "--max-loras", "4"], "--enable-lora, --max-loras: octavo does not do this yet"),
        (["-q", "awq"], "--quantization: octavo does not do awq yet; it does int8, int4, gguf"),
        (["-q", "int3"], "--quantization: must be one of int8, int4, gguf, not 'int3'"),
        (
            ["--kv-cache-dtype", "fp8_e5m2"],
            "--kv-cache-dtype: must be one of auto, float32, float16, bfloat16, int8, fp8, not 'fp8_e5m2'",
        ),
        (["--executor", "cuda"], "--executor: must be one of auto, native, torch, not 'cuda'"),
        (["--task", "rank"], "--task: must be one of auto, generate, embed, score, classify, reward, not 'rank'"),
        (
            ["--speculative-config", '{"method": "ngram"}'],
            NO_SPECULATION,
        ),
        (["--speculative-config.method", "ngram"], NO_SPECULATION),
        (["-tp", "2"], "--tensor-parallel-size: octavo runs a model on one device; more than 1 is not done yet"),
        (["--port", "70000"], "--port: must be at most 65535, not 70000"),
        (["--block-size", "0"], "--block-size: must be at least 1, not 0"),
        (["--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization: must be above 0 and at most 1, not 1.5"),
        (["--gpu-memory-utilization", "nan"], "--gpu-memory-utilization: must be above 0 and at most 1, not nan"),
        (["--dtype", "int3"], "--dtype: must be one of auto, float32, float16, bfloat16, not 'int3'"),
        (["--seed", "1e3"], "--seed: must be a whole number, not '1e3'"),
        (["--api-key", ""], "--api-key: a key must not be empty"),
        (["--host"], "--host: expected one argument"),
        (["another"], "unrecognized arguments: another"),
    ],
)
def test_refusals(words: list[str], message: str) -> None:
    assert refusal("m", *words) == message


@pytest.mark.parametrize(
    "words",
    [
        ["--no-enable-lora", "--max-loras", "1", "--task", "auto", "-dp", "1"],
        ["--distributed-executor-backend", "mp", "--quantization", "none", "--hf-overrides", "{}"],
        ["--disable-log-requests", "--async-scheduling"],
    ],
)
def test_a_known_flag_that_asks_for_nothing_new_is_accepted(words: list[str]) -> None:
    assert configs("m", *words) == configs("m")


def test_the_keys_of_a_json_flag_may_be_given_one_by_one() -> None:
    words = ["m", "--override-generation-config", '{"top_k": 5, "top_p": 0.5}']
    values = serve_values([*words, "--override-generation-config.top_p=0.9", "--override-generation-config.a.b", "c"])
    expected = {"top_k": 5, "top_p": 0.9, "a": {"b": "c"}}
    assert values["override-generation-config"] == expected
    assert to_configs(values, {})[0].model.override_generation_config == expected
    assert serve_values(to_words(values))["override-generation-config"] == expected


def test_ignored_flags_leave_a_note() -> None:
    values = serve_values(
        ["m", "--disable-log-stats", "-O3", "--compilation-config.level", "3", "--no-use-tqdm-on-load"]
    )
    assert check(values) == [
        "--disable-log-stats has no effect in octavo",
        "--compilation-config has no effect in octavo",
        "--use-tqdm-on-load has no effect in octavo",
        "--optimization-level has no effect in octavo",
    ]
    assert check(serve_values(["m", "--disable-log-requests"])) == []


def test_config_file_gives_way_to_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "octavo.yaml"
    file.write_text(
        "model: from-file\nmax_num_seqs: 8\nmax-model-len: 2k\nenable-prefix-caching: false\n"
        "api-key: [a, b]\nserved-model-name: x\nseed:\n"
    )
    engine, server = configs("--config", str(file), "--max-num-seqs", "9", "--api-key", "c")
    assert engine.model.model == "from-file"
    assert (engine.scheduler.max_num_seqs, engine.model.max_model_len) == (9, 2000)
    assert not engine.cache.enable_prefix_caching
    assert (server.api_keys, server.served_model_names) == (("c",), ("x",))
    assert configs("from-line", "--config", str(file))[0].model.model == "from-line"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max-num-sqs: 3", "unknown key max-num-sqs; did you mean max-num-seqs?"),
        ("max-num-seqs: many", "max-num-seqs: must be a whole number"),
        ("enable-prefix-caching: 1", "enable-prefix-caching: must be true or false, not 1"),
        ("port: [1, 2]", "port: must be one value"),
        ("- a", "must be a mapping of flag names to values"),
        ("a: [", "not YAML"),
        ("enable-lora: true", "--enable-lora: octavo does not do this yet"),
        ("config: other.yaml", "unknown key config"),
    ],
)
def test_bad_config_files(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "octavo.yaml"
    file.write_text(content)
    assert message in refusal("m", "--config", str(file))


def test_missing_config_file() -> None:
    assert refusal("m", "--config", "no-such.yaml") == "--config no-such.yaml: No such file or directory"


def test_values_survive_as_words() -> None:
    values: Values = {"dtype": "float16", "enforce-eager": True, "enable-prefix-caching": False, "seed": 3}
    given = serve_values(["m", *to_words(values)])
    assert given == {"model": "m", **values}
