"""`EngineArgs`: the options of an engine, by vLLM's names.

    EngineArgs(model=…, max_num_seqs=8).create_engine_config()                  from Python
    EngineArgs.from_cli_args(EngineArgs.add_cli_args(parser).parse_args())      from a script's own command line

A field is a flag of cli/flags.py or cli/known.py, with underscores. So names, defaults, other spellings and refusals
are those of `octavo serve`, and have one place.
"""

import argparse
import dataclasses
import difflib
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from octavo.cli.arguments import ALL_FLAGS, UsageError, add_flag, check, to_configs, value_of
from octavo.cli.flags import Flag
from octavo.cli.known import Known
from octavo.config import EngineConfig

logger = logging.getLogger(__name__)

OPTIONS: dict[str, Flag | Known] = {
    flag.name.replace("-", "_"): flag
    for flag in ALL_FLAGS
    if not (isinstance(flag, Flag) and flag.target.startswith("server."))
}
"""By Python name. A flag of vLLM's server that octavo only knows is here too; nothing tells it from the engine's."""
HEEDED = frozenset({"disable_log_stats"})
"""Flags without an effect on a server that have one here: `LLMEngine` keeps metrics, or does not."""


def _field(flag: Flag | Known) -> Any:
    default = flag.default
    return dataclasses.field(default_factory=dict) if isinstance(default, dict) else dataclasses.field(default=default)


if TYPE_CHECKING:

    class _Options:
        def __getattr__(self, name: str) -> Any: ...
else:
    _Options = dataclasses.make_dataclass(
        "_Options", [(name, Any, _field(flag)) for name, flag in OPTIONS.items()], init=False
    )


@dataclass(init=False)
class EngineArgs(_Options):
    """Every option has the default of its flag. TypeError for a name that is no flag.

    What a value has to be, and whether octavo does it, is checked by `create_engine_config`.
    """

    def __init__(self, model: str | None = None, **options: Any) -> None:
        fields = {field.name: field for field in dataclasses.fields(self)}
        for name in options:
            if name not in fields:
                close = difflib.get_close_matches(name, fields, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise TypeError(f"{type(self).__name__}: unknown argument {name}{hint}")
        for name, field in fields.items():
            default = {} if field.default is dataclasses.MISSING else field.default
            setattr(self, name, options.get(name, default))
        self.model = model

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Gives `parser` the flags; it parses them to the values of the fields."""
        for name, flag in OPTIONS.items():
            add_flag(parser, flag, dest=name, default=None if flag.kind.is_many else flag.default)
        return parser

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> Self:
        """From what a parser of `add_cli_args` returned; what else is in there is the script's own."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in vars(args).items() if name in names})

    def create_engine_config(self) -> EngineConfig:
        """The checked options. ValueError names the one that is out of range, or that octavo does not do."""
        values = {}
        for name, flag in OPTIONS.items():
            value = getattr(self, name)
            if value is None or value == flag.default or name in HEEDED:
                continue
            try:
                # torch's own types (torch.float16) say their name.
                values[flag.name] = value_of(flag, str(value).removeprefix("torch.") if name == "dtype" else value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        try:
            for note in check(values):
                logger.warning("%s", _in_python(note))
            return to_configs(values, {})[0]
        except UsageError as error:
            raise ValueError(_in_python(str(error))) from None


@dataclass(init=False)
class AsyncEngineArgs(EngineArgs):
    """The options of an `AsyncLLM`."""

    enable_log_requests: bool = False


def _in_python(message: str) -> str:
    """A message about flags, with the names that Python code uses."""
    return re.sub(r"--([a-z][a-z0-9-]*)", lambda match: match[1].replace("-", "_"), message)
