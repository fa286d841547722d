"""`octavo chat` and `octavo complete`: with a server of their own, and with a running one."""

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

OCTAVO = Path(sys.executable).with_name("octavo")
LIMIT_SECONDS = 180


def octavo(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OCTAVO, *words], input=said, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=True
    )


def test_one_question_with_a_server_of_its_own() -> None:
    question = "What is the capital of France? Answer in one word."
    result = octavo("chat", "--temperature=0", "--max-tokens=24", "--max-model-len=1k", "-q", question)
    assert "Paris" in result.stdout


def test_a_conversation_remembers(server: str) -> None:
    result = octavo(
        *("chat", "--url", server, "--temperature=0", "--max-tokens=40", "--stats"),
        *("--system-prompt", "You are a helpful assistant."),
        said="Name the capital city of France.\n\nWhat is that city best known for?\n",
    )
    first, _, rest = result.stdout.partition("\n")
    assert "Paris" in first
    assert "Eiffel" in rest
    assert result.stderr.count("tokens/s") + result.stderr.count("one token") == 2


def test_complete(server: str) -> None:
    result = octavo(
        "complete",
        "--url",
        f"{server}/v1",
        "--temperature=0",
        "--max-tokens=12",
        "-q",
        "Monday, Tuesday, Wednesday, Thursday,",
    )
    assert "Friday" in result.stdout


def test_control_c_ends_the_answer_and_control_d_leaves(server: str) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [OCTAVO, "complete", "--url", server, "--temperature=0", "--max-tokens=4000"],
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        _read_until(controller, b"> ")
        os.write(controller, b"One, two, three,\n")
        _read_until(controller, b"four")
        process.send_signal(signal.SIGINT)
        shown = _read_until(controller, b"> ")
        assert b"Traceback" not in shown
        os.write(controller, b"\x04")
        assert process.wait(LIMIT_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def _read_until(terminal: int, mark: bytes) -> bytes:
    shown = b""
    while mark not in shown:
        ready, _, _ = select.select([terminal], [], [], LIMIT_SECONDS)
        assert ready, f"nothing more came after {shown!r}"
        shown += os.read(terminal, 4096)
    return shown
