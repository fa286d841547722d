"""The engine as a child process: it serves, it can die, and it leaves nothing behind."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
import pytest
from null_pair import DEADLINE, greedy

from octavo._core import Accepted, Delta, Failed, Frontend
from octavo.config import EngineConfig, ModelConfig, SchedulerConfig
from octavo.engine.spawn import EngineProcess
from octavo.engine.start import NO_MODEL, EngineStart, prepare

# A step takes a while, so that a long request still runs when its first token has come.
START: EngineStart = prepare(
    EngineConfig(
        model=ModelConfig(model=NO_MODEL),
        scheduler=SchedulerConfig(max_num_seqs=16),
        backend="null",
        null_step_seconds=0.002,
    )
).start


@pytest.fixture
def process() -> Iterator[EngineProcess]:
    started = EngineProcess(START)
    yield started
    started.kill()


def connect(process: EngineProcess) -> Frontend:
    return Frontend(
        process.endpoint(), None, max_model_len=START.memory.max_model_len, vocab_size=START.vocab_size, threads=1
    )


def wait_for(
    frontend: Frontend, done: Callable[[list[Accepted | Delta | Failed]], bool]
) -> list[Accepted | Delta | Failed]:
    events: list[Accepted | Delta | Failed] = []
    deadline = time.monotonic() + DEADLINE
    while not done(events):
        assert time.monotonic() < deadline, events
        frontend.wait(0.1)
        events += frontend.drain()
    return events


def ended(events: list[Accepted | Delta | Failed]) -> bool:
    return bool(events) and (isinstance(events[-1], Failed) or getattr(events[-1], "finish_reason", None) is not None)


def is_gone(pid: int) -> bool:
    """Waits for the end of any process by its file descriptor."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], DEADLINE)[0])
    finally:
        os.close(descriptor)


def test_what_octavo_refuses_while_it_loads_is_one_line() -> None:
    """Such as a kernel that cannot be compiled, which is no fault of the model."""
    program = """
import sys
from octavo.backends.cuda.nvrtc import CompileError
from octavo.engine import process

def refuse(*_):
    raise CompileError("the CUDA compiler is missing")

process.build_engine = refuse
sys.exit(process.main())
"""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
        )
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdin.write(msgspec.json.encode(START) + b"\n")
        child.stdin.flush()
        error = child.stderr.read().decode()
        child.stdin.close()
        child.stderr.close()
        assert child.wait(DEADLINE) == 1
    assert error == "octavo: error: the CUDA compiler is missing\n"


def test_a_request_goes_to_the_child_and_back(process: EngineProcess) -> None:
    frontend = connect(process)
    request = frontend.submit([1, 2, 3], greedy(5))
    events = wait_for(frontend, ended)
    assert all(event.request == request for event in events)
    assert sum(event.num_tokens for event in events if isinstance(event, Delta)) == 5
    assert frontend.ready is not None
    info = msgspec.json.decode(frontend.ready)
    assert info["backend"] == "null"
    assert info["num_blocks"] == START.memory.num_blocks
    assert process.poll() is None


def test_a_drained_engine_ends_by_itself(process: EngineProcess) -> None:
    frontend = connect(process)
    frontend.submit([1, 2, 3], greedy(50))
    events = wait_for(frontend, lambda events: any(isinstance(event, Delta) for event in events))
    frontend.drain_engine()
    assert process.wait(DEADLINE) == 0
    events += wait_for(frontend, lambda _: not frontend.connected) + frontend.drain()
    assert ended(events)
    assert sum(event.num_tokens for event in events if isinstance(event, Delta)) == 50


def test_a_closed_front_end_ends_the_engine(process: EngineProcess) -> None:
    frontend = connect(process)
    request = frontend.submit([1], greedy(1))
    wait_for(frontend, ended)
    frontend.abort(request)
    del frontend
    assert process.wait(DEADLINE) == 0


def test_a_signal_of_the_terminal_does_not_end_it(process: EngineProcess) -> None:
    frontend = connect(process)
    wait_for(frontend, lambda events: frontend.ready is not None)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    frontend.submit([1, 2], greedy(5))
    assert isinstance(wait_for(frontend, ended)[-1], Delta)


def test_terminate_ends_it_with_requests_running(process: EngineProcess) -> None:
    frontend = connect(process)
    frontend.submit([1, 2], greedy(None))
    wait_for(frontend, bool)
    process.terminate()
    assert process.wait(DEADLINE) == 1
    wait_for(frontend, lambda _: frontend.num_open == 0)


def test_after_kill_9_every_open_request_fails_and_a_new_engine_takes_over(process: EngineProcess) -> None:
    frontend = connect(process)
    requests = {frontend.submit([1, 2, 3], greedy(None)) for _ in range(20)}
    wait_for(frontend, lambda events: any(isinstance(event, Delta) for event in events))
    os.kill(process.pid, signal.SIGKILL)
    events = wait_for(frontend, lambda events: sum(isinstance(event, Failed) for event in events) == len(requests))
    failed = [event for event in events if isinstance(event, Failed)]
    assert {event.request for event in failed} == requests
    assert {event.reason for event in failed} == {"engine_died"}
    assert not frontend.connected
    assert process.wait(DEADLINE) == -signal.SIGKILL

    successor = EngineProcess(START)
    try:
        frontend.reconnect(successor.endpoint())
        request = frontend.submit([1, 2], greedy(4))
        events = wait_for(frontend, ended)
        assert {event.request for event in events} == {request}
        assert isinstance(events[-1], Delta)
        assert frontend.connected
    finally:
        successor.kill()
    assert is_gone(successor.pid)


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_process import START
from octavo.engine.spawn import EngineProcess
process = EngineProcess(START)
print(process.pid, flush=True)
sys.stdin.read()
"""


def test_the_engine_dies_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, os.path.dirname(__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        engine = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    try:
        assert is_gone(engine)
    finally:
        with suppress(ProcessLookupError):
            os.kill(engine, signal.SIGKILL)


def test_a_model_that_is_not_there_is_one_line_and_status_1(capfd: pytest.CaptureFixture[str]) -> None:
    missing = msgspec.structs.replace(
        START, config=EngineConfig(model=ModelConfig(model="/nowhere/model.gguf"), backend="model")
    )
    process = EngineProcess(missing)
    assert process.wait(DEADLINE * 3) == 1
    process.kill()
    error = capfd.readouterr().err
    assert "/nowhere/model.gguf" in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
