"""llama.cpp: its benchmark program (the library alone, without sampling, scheduling or HTTP), and its server."""

import json
import re
import subprocess

from engines.home import Home
from engines.servers import ServerCommand
from engines.workloads import Workload

FLAGS = ("--flash-attn", "on")
"""Faster than off here when more than one sequence decodes, and never slower."""

SHARED_PREFIX_SLOTS = 8
"""A slot reuses the prefix that its last request left there; between slots nothing is shared."""


def batched_bench_seconds(home: Home, format: str, threads: int, workload: Workload) -> float:
    """`llama-batched-bench`: random tokens of its own, prompts of one length that start together."""
    settings = {
        "--model": home.gguf(format),
        "--threads": threads,
        "-npp": workload.input_tokens,
        "-ntg": workload.output_tokens,
        "-npl": workload.requests,
        "--ctx-size": workload.requests * workload.max_model_len,
        "--output-format": "jsonl",
    }
    words = [str(home.llamacpp / "llama-batched-bench"), *_words(settings), *FLAGS]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    line = next(line for line in (done.stdout + done.stderr).splitlines() if line.startswith("{"))
    part = {"prefill": "t_pp", "decode": "t_tg"}.get(workload.timing, "t")
    return float(json.loads(line)[part])


def server_command(home: Home, format: str, threads: int, *, slots: int, slot_tokens: int) -> ServerCommand:
    settings = {
        "--model": home.gguf(format),
        "--host": "127.0.0.1",
        "--port": "{port}",
        "--threads": threads,
        "--parallel": slots,
        "--ctx-size": slots * slot_tokens,
    }
    words = (str(home.llamacpp / "llama-server"), *_words(settings), *FLAGS, "--no-webui", "--no-kv-unified")
    return ServerCommand(words, model="default")


def version(home: Home) -> str:
    """llama.cpp's own, and that of the package which brought its sources."""
    command = [str(home.llamacpp / "llama-server"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"version: *(.*)", done.stdout + done.stderr)
    return f"{found[1] if found else 'unknown'}, from {home.llamacpp_sources.name}"


def _words(settings: dict[str, object]) -> list[str]:
    return [str(word) for setting in settings.items() for word in setting]
