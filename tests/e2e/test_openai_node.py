"""The OpenAI SDK for Node, unmodified, against the running server."""

import json
import subprocess
from typing import Any

import pytest

LIMIT_SECONDS = 120


@pytest.fixture(scope="module")
def result(server: str, node_client: list[str]) -> dict[str, Any]:
    process = subprocess.run(
        [*node_client, f"{server}/v1"], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    assert process.returncode == 0, process.stderr
    answer: dict[str, Any] = json.loads(process.stdout)
    return answer


def test_models(result: dict[str, Any]) -> None:
    assert result["retrieved"] == result["model"]


def test_chat_streams_what_the_whole_answer_says(result: dict[str, Any]) -> None:
    assert result["chat"]["text"] == result["wholeChat"]
    assert "Paris" in result["chat"]["text"]
    assert result["chat"]["chunks"] > 5
    assert result["chat"]["finishReason"] in ("stop", "length")
    assert result["chat"]["usage"]["completion_tokens"] <= 24


def test_completions_stream_what_the_whole_answer_says(result: dict[str, Any]) -> None:
    assert result["completion"]["text"] == result["wholeCompletion"]
    assert "Wednesday" in result["completion"]["text"]
    assert result["completion"]["usage"]["completion_tokens"] <= 12


def test_errors_are_the_sdks_own(result: dict[str, Any]) -> None:
    assert result["error"]["name"] == "NotFoundError"
    assert result["error"]["status"] == 404
    assert result["error"]["param"] == "model"
