"""What a pooling model makes of a prompt: `PoolingParams` say what is wanted, `PoolingModel` what the model has.

Shared by `LLM`, `AsyncLLM` and the server's routes, as is how texts are paired for a score.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from octavo._core import Pooling
from octavo.engine.start import Prepared

PoolingTask = Literal["embed", "token_embed", "classify", "token_classify", "score", "reward"]
ElementType = Literal["float32", "float16", "bfloat16"]
"""Of numbers that are sent as bytes."""
Endianness = Literal["native", "little", "big"]

ANY_TASK: tuple[PoolingTask, ...] = ("reward", "token_embed", "token_classify", "classify", "embed", "score")
"""For who names none: the first of these that the model has."""


@dataclass
class PoolingParams:
    """Raises ValueError, naming the parameter, for a value that octavo does not do."""

    dimensions: int | None = None
    """Of an embedding: its first elements, so many, where the model was trained for that (Matryoshka)."""
    use_activation: bool | None = None
    """Embeddings of length 1; probabilities of classes, and a score between 0 and 1. None: as the model's files say."""
    truncate_prompt_tokens: int | None = None
    """The prompt is cut to so many tokens; -1: to what the model takes."""
    truncation_side: Literal["left", "right"] = "right"
    task: PoolingTask | None = None
    """None: what the method that is called is for."""
    normalize: bool | None = None
    softmax: bool | None = None
    activation: bool | None = None
    """Older names of use_activation."""

    def __post_init__(self) -> None:
        for name in ("normalize", "softmax", "activation"):
            value = getattr(self, name)
            if value is None:
                continue
            if self.use_activation not in (None, value):
                raise ValueError(f"{name}: contradicts use_activation")
            self.use_activation = value
        self.to_core(self.task or "embed")

    def to_core(self, task: PoolingTask) -> Pooling:
        """The checked, immutable form that the engine takes."""
        return Pooling(task=task, dimensions=self.dimensions, normalize=self.use_activation)

    def clone(self) -> Self:
        return copy.deepcopy(self)


@dataclass(frozen=True)
class PoolingModel:
    """What one model can do."""

    tasks: frozenset[str]
    """Empty: it generates."""
    labels: Mapping[int, str]
    """Class → its name, where the config has names."""
    width: int | None
    """Elements of an embedding."""
    dimensions: tuple[int, ...] | None
    """Shorter embeddings that the model was trained for. None: all of them, or none (`is_matryoshka`)."""
    is_matryoshka: bool

    @classmethod
    def of(cls, prepared: Prepared) -> "PoolingModel":
        config: Mapping[str, Any] = {} if prepared.checkpoint is None else prepared.checkpoint.config
        labels, dimensions = config.get("id2label"), config.get("matryoshka_dimensions")
        width = config.get("hidden_size")
        return cls(
            tasks=prepared.pooling,
            labels={int(key): str(label) for key, label in labels.items()} if isinstance(labels, dict) else {},
            width=width if isinstance(width, int) else None,
            dimensions=tuple(dimensions) if isinstance(dimensions, list) else None,
            is_matryoshka=bool(config.get("is_matryoshka")) or isinstance(dimensions, list),
        )

    def choose(self, *tasks: PoolingTask) -> PoolingTask:
        """The first of `tasks` that the model has. ValueError says what is needed for them."""
        for task in tasks:
            if task in self.tasks:
                return task
        wanted = " or ".join(tasks)
        if not self.tasks:
            embeds = not {"embed", "token_embed"}.isdisjoint(tasks)
            how = "add --runner pooling --convert embed" if embeds else "serve one that has a classifier"
            raise ValueError(f"this model generates text; for {wanted} {how}")
        raise ValueError(f"this model does {', '.join(sorted(self.tasks))}, not {wanted}")

    def check_dimensions(self, dimensions: int | None) -> None:
        """ValueError for a length that the model was not trained for."""
        if dimensions is None or dimensions == self.width:
            return
        if not self.is_matryoshka:
            raise ValueError("dimensions: this model's embeddings cannot be shortened (its config has no matryoshka)")
        if self.dimensions is not None and dimensions not in self.dimensions:
            raise ValueError(f"dimensions: must be one of {', '.join(map(str, self.dimensions))}, not {dimensions}")
        if self.width is not None and dimensions > self.width:
            raise ValueError(f"dimensions: must be at most {self.width}, not {dimensions}")


def pair_up(num_first: int, num_second: int) -> list[tuple[int, int]]:
    """Which text is scored with which: one with each, or each with the one of its number. ValueError otherwise."""
    if not num_first or not num_second:
        raise ValueError("there must be at least one text on each side")
    if num_first == 1:
        return [(0, index) for index in range(num_second)]
    if num_first != num_second:
        raise ValueError(f"{num_first} texts with {num_second}: there must be one, or as many on each side")
    return [(index, index) for index in range(num_first)]
