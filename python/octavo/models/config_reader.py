"""Typed reads of a Hugging Face `config.json`, with an error that names the key."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from octavo.errors import ModelError


class ConfigReader:
    """A config dict whose values are checked as they are read. A JSON null counts as absent."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def get(self, key: str, default: Any = None) -> Any:
        value = self._config.get(key)
        return default if value is None else value

    def values(self) -> Iterable[Any]:
        return self._config.values()

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1. ModelError when it is something else, or absent without a default."""
        value = self.get(key, default)
        if value is None:
            raise ModelError(f"the model's config has no {key}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"the model's config has {key} = {value!r}; a positive whole number is needed")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive, finite number."""
        value = self.get(key, default)
        if value is None:
            raise ModelError(f"the model's config has no {key}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise ModelError(f"the model's config has {key} = {value!r}; a positive number is needed")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ModelError(f"the model's config has {key} = {value!r}; true or false is needed")
        return value

    def mapping(self, key: str) -> "ConfigReader":
        value = self.get(key, {})
        if not isinstance(value, Mapping):
            raise ModelError(f"the model's config has {key} = {value!r}; an object is needed")
        return ConfigReader(value)

    def only(self, key: str, allowed: object) -> None:
        """ModelError unless `key` is absent or equal to `allowed`."""
        value = self.get(key, allowed)
        if value != allowed:
            raise ModelError(f"{key} = {value!r} in the model's config is not supported; only {allowed!r} is")
