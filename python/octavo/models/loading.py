"""What every loader does: each tensor of a checkpoint has its place, before the first one is read.

    check_tensors(spec, checkpoint)     strict about names and shapes
    check_layout(layout, checkpoint)    the same for a model that pools
    Progress(checkpoint)                a bar of bytes on stderr

Strict means that a tensor which nothing uses, a parameter that nothing fills and a shape that differs are errors:
a model that is wrong in part answers worse, and nobody sees why.
"""

import re
import sys
from types import TracebackType
from typing import Self

import numpy as np
from tqdm import tqdm

from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, TensorInfo
from octavo.models.layout import parameters
from octavo.models.pooled_layout import Layout
from octavo.models.spec import DecoderSpec

COMPUTED = re.compile(r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")
"""Tables that some checkpoints store and the spec determines."""

TIED = re.compile(COMPUTED.pattern + r"|lm_head\.weight")
"""The same, and the head of a model whose head is its embedding."""

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def check_tensors(spec: DecoderSpec, checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    """The tensors of every parameter's sources, by name. ModelError names the first one that is wrong."""
    found = dict(checkpoint.tensors())
    if HEAD in found and spec.tied_head:
        _check_tied(checkpoint, found)
    surplus = TIED if spec.tied_head else COMPUTED
    return check_layout(Layout(spec.architecture, tuple(parameters(spec)), surplus), checkpoint)


def check_layout(layout: Layout, checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    """The tensors of every parameter's sources, by name. ModelError names the first one that is wrong."""
    shapes = {
        source: (rows, *parameter.shape[1:]) for parameter in layout.parameters for source, rows in parameter.sources
    }
    found = dict(checkpoint.tensors())
    for name, info in found.items():
        if name in shapes:
            if info.shape != shapes[name]:
                raise ModelError(f"{name} has shape {list(info.shape)}; the config asks for {list(shapes[name])}")
        elif not layout.surplus.fullmatch(name):
            raise ModelError(f"the checkpoint has {name}, which {layout.architecture} with this config does not use")
    missing = [name for name in shapes if name not in found]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"the checkpoint lacks {missing[0]}{others}")
    return {name: found[name] for name in shapes}


class Progress:
    """A bar over the bytes of the tensors that are loaded."""

    def __init__(self, tensors: dict[str, TensorInfo], checkpoint: Checkpoint) -> None:
        self._tensors = tensors
        total = sum(info.nbytes for info in tensors.values())
        label = f"Loading {checkpoint.source.name}"
        self._bar = tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc=label, file=sys.stderr)

    def loaded(self, name: str) -> None:
        self._bar.update(self._tensors[name].nbytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def _check_tied(checkpoint: Checkpoint, tensors: dict[str, TensorInfo]) -> None:
    """A head that is stored although tied must be the embedding: which of two different ones was meant is unknown."""
    same = (
        EMBEDDING in tensors
        and tensors[HEAD] == tensors[EMBEDDING]
        and np.array_equal(checkpoint.stored(HEAD).data, checkpoint.stored(EMBEDDING).data)
    )
    if not same:
        raise ModelError(f"tie_word_embeddings is true, but {HEAD} differs from {EMBEDDING}")
