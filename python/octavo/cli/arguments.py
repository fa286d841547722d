"""From words to options: the command line and `--config` files, checked against flags.py and known.py.

words → `known_words` (names made uniform, unknown ones refused) → `Parser` → values by flag → `check` → `to_configs`.
A value that was not given is absent: so a file's value shows where the command line has none, and config.py's default
where neither has one.
"""

import argparse
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from octavo.cli import flags
from octavo.cli.flags import SECTIONS, Flag, Kind
from octavo.cli.known import IGNORED, LATER, Known
from octavo.cli.server_flags import SERVER_FLAGS
from octavo.config import EngineConfig, ServerConfig
from octavo.errors import OctavoError

Values = dict[str, object]
"""Parsed values by flag name, without the leading dashes."""

FLAGS: tuple[Flag, ...] = (*flags.FLAGS, *SERVER_FLAGS)
ALL_FLAGS: tuple[Flag | Known, ...] = (*FLAGS, *IGNORED, *LATER)
BY_NAME = {flag.name: flag for flag in ALL_FLAGS}
ENVIRONMENT_KEYS = ("OCTAVO_API_KEY", "VLLM_API_KEY")
ENVIRONMENT_ADMIN_KEY = "OCTAVO_ADMIN_API_KEY"
UNITS = {"k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class UsageError(OctavoError):
    """The command line cannot be used as it is."""

    exit_code = 2


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError, and takes no abbreviations."""

    def __init__(self, *, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} [MODEL] [flags]",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110),
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(re.sub(r"^argument (--[\w-]+)(?:/-\w+)?", r"\1", message))

    def add_flag(self, flag: Flag | Known) -> None:
        """A value that is not given is absent."""
        add_flag(self, flag, dest=flag.name, default=argparse.SUPPRESS)


def add_flag(parser: argparse.ArgumentParser, flag: Flag | Known, *, dest: str, default: object) -> None:
    # `chat -q` is --quick, as in vLLM.
    free = flag.short is not None and flag.short not in parser._option_string_actions
    names = [f"--{flag.name}", *([flag.short] if flag.short and free else [])]
    if isinstance(flag, Known) or flag.hidden:
        text = argparse.SUPPRESS
    else:
        shown = flag.default not in (None, (), False)
        text = (flag.help + (f" (default: {_spell(flag.default)})" if shown else "")).replace("%", "%%")
    if flag.kind is Kind.BOOL:
        parser.add_argument(*names, dest=dest, action=argparse.BooleanOptionalAction, default=default, help=text)
        return
    if flag.kind.is_object:
        parser.add_argument(
            *names,
            dest=dest,
            type=lambda word: _argument(flag, word),
            action=MergeJson,
            metavar=flag.kind.value,
            default=default,
            help=text,
        )
        return
    choices = flag.choices if isinstance(flag, Flag) else ()
    many = flag.kind.is_many
    parser.add_argument(
        *names,
        dest=dest,
        type=lambda word: _argument(flag, word),
        nargs="+" if many else None,
        action="extend" if many else "store",
        metavar="{" + ",".join(choices) + "}" if choices else flag.kind.value,
        default=default,
        help=text,
    )


class MergeJson(argparse.Action):
    """A JSON flag: objects that are given one after the other add up, a later value winning."""

    def __call__(
        self, _parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, _name: str | None = None
    ) -> None:
        setattr(namespace, self.dest, merge(getattr(namespace, self.dest, None), value))


def merge(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: merge(below.get(key), value) for key, value in above.items()}}
    return above


def parse(parser: Parser, words: Sequence[str]) -> Values:
    """The values on the command line, by flag name. UsageError for anything that is not known."""
    return vars(parser.parse_args(known_words(words, parser)))


def known_words(words: Sequence[str], parser: Parser) -> list[str]:
    """`words` with each flag as the tables spell it (`--Max_Num` is not known, `--max_num_seqs` is).

    vLLM's `--flag.key value`, which sets one key of a JSON flag, becomes `--flag={"key": value}`.
    """
    accepted = {name for action in parser._actions for name in action.option_strings}
    known: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            return [*known, word, *remaining]
        if not word.startswith("-") or re.fullmatch(r"-[\d.]+", word):
            known.append(word)
            continue
        name, equals, value = word.partition("=")
        # The keys of a JSON flag keep their underscores.
        base, dot, path = name.partition(".")
        if name.startswith("--"):
            base = base.replace("_", "-")
            name = base + dot + path
        if dot and _is_json_flag(base):
            if not equals and (value := next(remaining, "")) == "":
                raise UsageError(f"{name}: expected a value")
            known.append(f"{base}={_nested(path, value)}")
            continue
        if name.startswith("--") and name not in accepted:
            raise UsageError(f"unknown flag {name}{did_you_mean(name, accepted)}")
        known.append(name + equals + value)
    return known


def read_file(path: str) -> Values:
    """The values of a YAML file whose keys are flag names."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: must be a mapping of flag names to values")
    values: Values = {}
    for key, value in content.items():
        name = str(key).replace("_", "-").removeprefix("--")
        if name not in BY_NAME:
            raise UsageError(f"--config {path}: unknown key {key}{did_you_mean(name, BY_NAME)}")
        if value is not None:
            try:
                values[name] = value_of(BY_NAME[name], value)
            except ValueError as error:
                raise UsageError(f"--config {path}: {key}: {error}") from None
    return values


def check(values: Values) -> list[str]:
    """Refuses what octavo does not do; returns a note for each flag that has no effect."""
    refused = [flag for flag in LATER if flag.name in values and not flag.asks_for_nothing(values[flag.name])]
    if refused:
        raise _refusal(refused)
    return [
        f"--{flag.name} has no effect in octavo{flag.why and ': ' + flag.why}"
        for flag in IGNORED
        if flag.name in values and not flag.asks_for_nothing(values[flag.name])
    ]


def to_configs(values: Values, environment: Mapping[str, str]) -> tuple[EngineConfig, ServerConfig]:
    """The options for the engine and for the server; UsageError names the flag whose value is out of range."""
    options: dict[str, Values] = {section: {} for section in SECTIONS}
    for flag in FLAGS:
        section, _, option = flag.target.partition(".")
        if flag.name in values:
            options[section][option] = values[flag.name]
        elif flag.required:
            raise UsageError(f"--{flag.name} is missing")
    keys = [environment[name] for name in ENVIRONMENT_KEYS if environment.get(name)]
    if keys:
        options["server"].setdefault("api_keys", keys)
    if admin_key := environment.get(ENVIRONMENT_ADMIN_KEY):
        options["server"].setdefault("admin_api_keys", [admin_key])
    engine, server = options.pop("engine"), options.pop("server")
    try:
        return msgspec.convert({**options, **engine}, EngineConfig), msgspec.convert(server, ServerConfig)
    except msgspec.ValidationError as error:
        option, _, reason = str(error).partition(" - at ")[0].partition(": ")
        name = next((flag.name for flag in FLAGS if flag.target.endswith(f".{option}")), option)
        raise UsageError(f"--{name}: {reason}") from None


def to_words(values: Values) -> list[str]:
    """The command line that gives `values` again."""
    words: list[str] = []
    for name, value in values.items():
        match value:
            case True | False:
                words.append(f"--{name}" if value else f"--no-{name}")
            case list():
                words += [f"--{name}", *map(str, value)]
            case dict():
                words += [f"--{name}={json.dumps(value)}"]
            case _:
                words += [f"--{name}={value}"]
    return words


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no name is near."""
    near = difflib.get_close_matches(word, sorted(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _refusal(flags: list[Known]) -> UsageError:
    names = ", ".join(f"--{flag.name}" for flag in flags)
    reasons = "".join(dict.fromkeys(f"; {flag.why}" for flag in flags if flag.why))
    return UsageError(f"{names}: octavo does not do this yet{reasons}")


def _is_json_flag(name: str) -> bool:
    flag = BY_NAME.get(name.removeprefix("--"))
    return flag is not None and flag.kind.is_object


def _nested(path: str, word: str) -> str:
    """`a.b` and `1` as {"a": {"b": 1}}; a word that is no JSON is a string."""
    try:
        value = json.loads(word)
    except ValueError:
        value = word
    for key in reversed(path.split(".")):
        value = {key: value}
    return json.dumps(value)


def _argument(flag: Flag | Known, word: str) -> object:
    try:
        return _value(flag, word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def value_of(flag: Flag | Known, value: object) -> object:
    """A value from YAML or Python as the flag's; ValueError says what it must be."""
    match flag.kind, value:
        case (Kind.BOOL, bool()) | (Kind.JSON | Kind.COUNTS, dict() | list()):
            return value
        case Kind.BOOL, _:
            raise ValueError(f"must be true or false, not {value!r}")
        case Kind.LIST | Kind.INTS, list() | tuple():
            return [_value(flag, str(item)) for item in value]
        case Kind.LIST | Kind.INTS, _:
            return [_value(flag, str(value))]
        case _, dict() | list():
            raise ValueError("must be one value")
    return _value(flag, str(value))


def _value(flag: Flag | Known, word: str) -> object:
    """`word` as the flag's kind of value; ValueError when it is none."""
    if isinstance(flag, Flag):
        if word in flag.unset:
            return flag.default
        word = flag.spellings.get(word, word)
        if word in flag.later:
            raise ValueError(f"octavo does not do {word} yet; it does {', '.join(flag.choices)}")
        if flag.choices and word not in flag.choices:
            raise ValueError(f"must be one of {', '.join(flag.choices)}, not {word!r}")
    match flag.kind:
        case Kind.INT | Kind.INTS:
            if re.fullmatch(r"[+-]?\d{1,20}", word) is None:
                raise ValueError(f"must be a whole number, not {word!r}")
            return int(word)
        case Kind.SIZE:
            return _size(word)
        case Kind.FLOAT:
            try:
                return float(word)
            except ValueError:
                raise ValueError(f"must be a number, not {word!r}") from None
        case Kind.COUNTS if (counts := _counts(word)) is not None:
            return counts
        case Kind.JSON | Kind.COUNTS:
            try:
                return json.loads(word)
            except ValueError:
                raise ValueError(f"must be JSON, not {word!r}") from None
    return word


def _counts(word: str) -> dict[str, int] | None:
    """`image=4,video=1` as an object; None when it is not of that form."""
    pairs = [re.fullmatch(r"(\w+)=(\d{1,9})", part) for part in word.split(",")]
    return {pair[1]: int(pair[2]) for pair in pairs if pair} if all(pairs) else None


def _size(word: str) -> int:
    match = re.fullmatch(r"([+-]?\d{1,20}(?:\.\d{1,9})?)([kmgtKMGT]?)", word)
    size = Fraction(match[1]) * UNITS.get(match[2], 1) if match else Fraction(1, 2)
    if size.denominator != 1:
        raise ValueError(f"must be a whole number, or one with a unit such as 2k (2000) or 2K (2048), not {word!r}")
    return int(size)


def _spell(value: object) -> str:
    return "on" if value is True else str(value)
