"""The command line: `octavo serve`, `chat`, `complete`, `run-batch`, `bench`, `doctor`.

    main (here) → serve.py, chat.py → arguments.py → flags.py, known.py
                          chat.py → client.py → a server
                          run_batch.py → batch_file.py, child.py → a server
           doctor.py → the devices

Each command is imported when it is asked for, so that `--version` and `--help` answer at once. An error that the user
can mend is one line on stderr: exit code 2 when the command line is wrong, 1 for all else.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from octavo.errors import OctavoError

COMMANDS = {
    "serve": "answer the OpenAI API over HTTP",
    "chat": "talk to a model in the terminal",
    "complete": "let a model continue texts in the terminal",
    "run-batch": "answer a file of requests",
    "bench": "measure a model on this machine",
    "doctor": "say what this machine has, and what octavo can use of it",
}
MODULES = {
    "serve": "octavo.cli.serve",
    "chat": "octavo.cli.chat",
    "complete": "octavo.cli.chat",
    "run-batch": "octavo.cli.run_batch",
    "bench": "octavo.cli.bench",
    "doctor": "octavo.cli.doctor",
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = sys.argv[1:] if words is None else words
    try:
        return _run(list(words))
    except OctavoError as error:
        print(f"octavo: error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; the interpreter's own flush at exit would raise again.
        sys.stdout = None
        return 1


def _run(words: list[str]) -> int:
    command = words[0] if words else "--help"
    if command in ("--version", "-v", "-V"):
        from octavo import __version__

        print(f"octavo {__version__}")
        return 0
    if command in ("--help", "-h", "help"):
        print(_help())
        return 0
    if command not in COMMANDS:
        from octavo.cli.arguments import UsageError, did_you_mean

        raise UsageError(f"unknown command {command}{did_you_mean(command, COMMANDS)}")
    code: int = import_module(MODULES[command]).run(command, words[1:])
    return code


def _help() -> str:
    lines = [f"  octavo {name:<10} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "octavo serves large language models.",
            "",
            *lines,
            f"  {'octavo --version':<17} the version",
            "",
            "`octavo COMMAND --help` lists the flags of a command. To begin: octavo chat",
        ]
    )
