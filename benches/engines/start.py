"""From the command to the first answer, with a warm page cache; and a server's memory, then and after W1."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from statistics import median
from time import perf_counter

from engines import llamacpp
from engines.contenders import THREADS, octavo_server
from engines.home import Home
from engines.processes import resident_bytes
from engines.servers import Server, ServerCommand
from engines.workloads import WORKLOADS, Workload

FIRST_ANSWER = Workload("start", 1, 8, 1, "http", clients=1)
SLOTS = 32
"""W1's requests at once."""


def start_figures(home: Home, logs: Path, engines: Collection[str], rounds: int) -> dict[str, float]:
    """start_NAME_s, start_NAME_rss_mib and W1_NAME_rss_mib of those servers that `engines` names."""
    tokens = WORKLOADS["W1"].max_model_len
    commands = {
        "octavo": octavo_server(),
        "llamacpp": llamacpp.server_command(home, "Q4_0", THREADS, slots=SLOTS, slot_tokens=tokens),
    }
    figures: dict[str, float] = {}
    for name, command in commands.items():
        if name in engines:
            figures |= _figures(name, command, logs / f"start_{name}.log", rounds)
    return figures


def _figures(name: str, command: ServerCommand, log: Path, rounds: int) -> dict[str, float]:
    seconds: list[float] = []
    idle, used = 0, 0
    # The first start warms the page cache.
    for index in range(rounds + 1):
        server = Server(command, log)
        try:
            server.until_ready()
            server.run(FIRST_ANSWER, FIRST_ANSWER.prompts(index))
            seconds.append(perf_counter() - server.began)
            idle = resident_bytes(server.pid)
            if index == rounds:
                server.run(dataclasses.replace(WORKLOADS["W1"], clients=SLOTS), WORKLOADS["W1"].prompts(0))
                used = resident_bytes(server.pid)
        finally:
            server.close()
    return {
        f"start_{name}_s": round(median(seconds[1:]), 3),
        f"start_{name}_s_max": round(max(seconds[1:]), 3),
        f"start_{name}_rss_mib": round(idle / 2**20, 1),
        f"W1_{name}_rss_mib": round(used / 2**20, 1),
    }
