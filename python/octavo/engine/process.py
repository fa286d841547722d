"""The engine process: how the API process starts it, and what it does.

    API process                                     engine process
    prepare(config) → EngineStart ── stdin, one line of JSON ──▶ main → build_engine → loop.run
    Frontend ◀──────────────── socketpair, frames ─────────────▶ Engine

The parent holds the writing end of the child's stdin open as a lifeline: when it closes, because the parent died or
gave up, the child ends, even while it loads. `LLM` calls `prepare` and `build_engine` in its own process.
"""

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import IO, cast

import msgspec

from octavo._core import Endpoint, Engine
from octavo.backends.base import Backend
from octavo.backends.null import NullBackend
from octavo.config import EngineConfig
from octavo.engine import loop
from octavo.engine.memory import MemoryPlan, plan_memory, resolve_batched_tokens
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, open_checkpoint
from octavo.models.source import resolve

NO_MODEL = "null"
"""As the name of the model, with the null backend: no tokenizer either."""

DEFAULT_MODEL_LEN = 4096
DEFAULT_NULL_BLOCKS = 16_384
"""Of the null backend, which has no memory to fill."""


class EngineStart(msgspec.Struct, frozen=True, kw_only=True):
    """All that an engine needs to know; decided once, in the process that starts it."""

    config: EngineConfig
    memory: MemoryPlan
    vocab_size: int
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    start: EngineStart
    checkpoint: Checkpoint | None
    """None without a model."""


def prepare(config: EngineConfig) -> Prepared:
    """Finds the model, reads its headers, and plans the memory. Imports no torch. Raises ModelError."""
    if config.backend == "null" and config.model.model == NO_MODEL:
        memory = _null_memory(config, DEFAULT_MODEL_LEN)
        return Prepared(EngineStart(config=config, memory=memory, vocab_size=32_000, eos_token_ids=()), None)
    checkpoint = _open(config)
    start = EngineStart(
        config=config,
        memory=_null_memory(config, checkpoint.max_model_len)
        if config.backend == "null"
        else plan_memory(config, checkpoint),
        vocab_size=checkpoint.config["vocab_size"],
        eos_token_ids=checkpoint.eos_token_ids,
    )
    return Prepared(start, checkpoint)


def build_engine(start: EngineStart, endpoint: Endpoint) -> tuple[Engine, Backend]:
    """Loads the model and reports ready. ModelError when it cannot be loaded, ValueError for contradicting limits."""
    began = time.monotonic()
    config, memory = start.config, start.memory
    engine = Engine(
        endpoint,
        num_blocks=memory.num_blocks,
        block_size=memory.block_size,
        max_num_seqs=config.scheduler.max_num_seqs,
        max_num_batched_tokens=memory.max_num_batched_tokens,
        max_model_len=memory.max_model_len,
        vocab_size=start.vocab_size,
        eos_token_ids=start.eos_token_ids,
        enable_prefix_caching=config.cache.enable_prefix_caching,
        enable_chunked_prefill=config.scheduler.enable_chunked_prefill,
        policy=config.scheduler.policy,
        max_num_queued_reqs=config.scheduler.max_num_queued_reqs,
        long_prefill_token_threshold=config.scheduler.long_prefill_token_threshold,
        max_logprobs=config.scheduler.max_logprobs,
        seed=config.model.seed,
    )
    backend = _build_backend(start)
    backend.bind(engine)
    info = {
        "max_model_len": memory.max_model_len,
        "num_blocks": memory.num_blocks,
        "block_size": memory.block_size,
        "dtype": memory.dtype,
        "device": memory.device,
        "backend": config.backend,
        "kv_cache_bytes": memory.kv_bytes,
        "weights_bytes": memory.weights_bytes,
        "threads": memory.threads,
        **backend.info,
        "load_seconds": round(time.monotonic() - began, 3),
    }
    engine.ready(json.dumps(info))
    return engine, backend


class EngineProcess:
    """The engine as a child process. It ends when it has drained, when its front end closes, or this process dies."""

    def __init__(self, start: EngineStart) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            # A group of its own: what a terminal or a shell sends to this process's group is for this process to judge.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "octavo.engine.process", "--fd", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                process_group=0,
            )
        self._socket: socket.socket | None = ours
        self._lifeline = cast(IO[bytes], self._process.stdin)
        with contextlib.suppress(BrokenPipeError):  # it died at once: `poll` tells
            self._lifeline.write(msgspec.json.encode(start) + b"\n")
            self._lifeline.flush()

    def endpoint(self) -> Endpoint:
        """This process's end of the connection, once."""
        if self._socket is None:
            raise RuntimeError("the connection has been taken already")
        connection, self._socket = self._socket, None
        return Endpoint.from_fd(connection.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status (negative: the signal that ended it), or None while it lives."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def terminate(self) -> None:
        """Asks it to end now, by the lifeline; running requests are lost. For an end in order, drain it instead."""
        with contextlib.suppress(BrokenPipeError):
            self._lifeline.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def kill(self) -> None:
        """Ends it at once, also when it is stuck, and reaps it. It keeps nothing on disk that this could harm."""
        self._process.kill()
        self._process.wait()
        self.terminate()


def main() -> int:
    """The engine process. The exit status is 1, after one line on stderr, for what the user can put right."""
    parser = argparse.ArgumentParser(prog="octavo.engine.process")
    parser.add_argument("--fd", type=int, required=True, help="the connection to the front end, inherited")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A service manager signals the whole group; the parent drains, and ends this process when that is done.
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    start = msgspec.json.decode(_read_line(sys.stdin.fileno()), type=EngineStart)
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True, name="lifeline").start()
    try:
        engine, backend = build_engine(start, Endpoint.from_fd(arguments.fd))
    except (ModelError, MemoryError) as error:
        print(f"octavo: {error or 'out of memory while loading'}", file=sys.stderr)
        return 1
    loop.run(engine, backend)
    return 0


def _open(config: EngineConfig) -> Checkpoint:
    model = config.model
    source = resolve(model.model, revision=model.revision, token=model.hf_token, load_format=model.load_format)
    tokenizer = None if model.tokenizer is None else resolve(model.tokenizer, token=model.hf_token, weights=False)
    return open_checkpoint(source, tokenizer=tokenizer)


def _null_memory(config: EngineConfig, longest: int) -> MemoryPlan:
    max_model_len = config.model.max_model_len or longest
    return MemoryPlan(
        device="none",
        max_model_len=max_model_len,
        max_num_batched_tokens=resolve_batched_tokens(config, max_model_len),
        block_size=config.cache.block_size,
        num_blocks=config.cache.num_gpu_blocks_override or DEFAULT_NULL_BLOCKS,
    )


def _build_backend(start: EngineStart) -> Backend:
    if start.config.backend == "null":
        # The middle of a vocabulary holds ordinary text, its ends hold control tokens.
        middle = start.vocab_size // 2
        token = next(token for token in range(middle, middle + 64) if token not in start.eos_token_ids)
        return NullBackend(token, start.config.null_step_seconds)
    checkpoint = _open(start.config)
    from octavo.engine.executor.torch import TorchExecutor  # torch takes seconds, and only the engine may import it

    return TorchExecutor(start, checkpoint)


def _read_line(stdin: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(stdin, 1 << 16)
        if not chunk:
            raise EOFError("the configuration on stdin breaks off")
        line += chunk
    return line


def _end_with_parent(stdin: int) -> None:
    while os.read(stdin, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
