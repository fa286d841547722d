"""The loader: every tensor of a checkpoint goes straight into its place in a fused parameter, one at a time.

    load_parameters(spec, checkpoint, dtype)    reads; strict about names and shapes
    random_parameters(spec, dtype, seed)        --load-format dummy

Strict means that a tensor which nothing uses, a parameter that nothing fills and a shape that differs are errors:
a model that is wrong in part answers worse, and nobody sees why.
"""

import re
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, TensorInfo
from octavo.models.layout import Dtype, parameters
from octavo.models.spec import DecoderSpec

TORCH_DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

COMPUTED = re.compile(r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")
"""Tables that some checkpoints store and the spec determines."""

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

FLOATS = {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64}


def load_parameters(spec: DecoderSpec, checkpoint: Checkpoint, dtype: Dtype) -> dict[str, torch.Tensor]:
    """Parameter name to tensor. Shows progress by bytes on stderr. ModelError names the tensor that is wrong."""
    arrays, places = _allocate(spec, dtype)
    unfilled = set(places)
    tensors = dict(checkpoint.tensors())
    for name, info in _progress(tensors, checkpoint.source.name):
        if name in places:
            place = places[name]
            if info.shape != tuple(place.shape):
                raise ModelError(f"{name} has shape {list(info.shape)}; the config asks for {list(place.shape)}")
            _copy(place, checkpoint.read(name), info, name)
            unfilled.discard(name)
        elif name == HEAD and spec.tied_head:
            _check_tied(checkpoint, tensors)
        elif not COMPUTED.fullmatch(name):
            raise ModelError(f"the checkpoint has {name}, which {spec.architecture} with this config does not use")
    if unfilled:
        first = min(unfilled, key=list(places).index)
        others = f" and {len(unfilled) - 1} more" if len(unfilled) > 1 else ""
        raise ModelError(f"the checkpoint lacks {first}{others}")
    return arrays


def random_parameters(spec: DecoderSpec, dtype: Dtype, seed: int) -> dict[str, torch.Tensor]:
    """Weights of the usual size, the same for the same seed; norms are 1."""
    arrays, _ = _allocate(spec, dtype)
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters(spec):
        array = arrays[parameter.name]
        if parameter.is_norm:
            array.fill_(1.0)
        else:
            array.normal_(0.0, 0.02, generator=generator)
    return arrays


def _allocate(spec: DecoderSpec, dtype: Dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(parameters by name, views of them by source name)."""
    arrays: dict[str, torch.Tensor] = {}
    places: dict[str, torch.Tensor] = {}
    for parameter in parameters(spec):
        kind = torch.float32 if parameter.is_norm else TORCH_DTYPES[dtype]
        array = arrays[parameter.name] = torch.empty(parameter.shape, dtype=kind)
        start = 0
        for source, rows in parameter.sources:
            places[source] = array[start : start + rows]
            start += rows
    return arrays, places


def _progress(tensors: dict[str, TensorInfo], label: str) -> Iterator[tuple[str, TensorInfo]]:
    total = sum(info.nbytes for info in tensors.values())
    with tqdm(
        total=total, unit="B", unit_scale=True, unit_divisor=1024, desc=f"Loading {label}", file=sys.stderr
    ) as bar:
        for name, info in tensors.items():
            yield name, info
            bar.update(info.nbytes)


def _copy(place: torch.Tensor, array: NDArray[np.generic], info: TensorInfo, name: str) -> None:
    place.copy_(_tensor(array, info, name).view(place.shape))


def _tensor(array: NDArray[np.generic], info: TensorInfo, name: str) -> torch.Tensor:
    with warnings.catch_warnings():
        # The mapped file is read-only; the tensor is only ever copied from.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if info.dtype == "BF16" and array.dtype == np.uint16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        if array.dtype.name not in FLOATS:
            raise ModelError(f"{name} has element type {info.dtype}, which is not supported")
        return torch.from_numpy(array)


def _check_tied(checkpoint: Checkpoint, tensors: dict[str, TensorInfo]) -> None:
    """A head that is stored although tied must be the embedding: which of two different ones was meant is unknown."""
    if tensors[HEAD].dtype != tensors[EMBEDDING].dtype or not np.array_equal(
        checkpoint.read(HEAD), checkpoint.read(EMBEDDING)
    ):
        raise ModelError(f"tie_word_embeddings is true, but {HEAD} differs from {EMBEDDING}")
