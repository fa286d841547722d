"""The torch loader: every tensor of a checkpoint goes straight into its place in a fused parameter, one at a time.

load_parameters(spec, checkpoint, dtype)    reads; `loading` is strict about names and shapes
random_parameters(spec, dtype, seed)        --load-format dummy
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, TensorInfo
from octavo.models.layout import Dtype, parameters
from octavo.models.loading import Progress, check_tensors
from octavo.models.spec import DecoderSpec

TORCH_DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

FLOATS = {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True)
class Place:
    """Where parameters go, and what type its norm kernels read."""

    device: torch.device
    norm_dtype: Dtype


CPU = Place(torch.device("cpu"), "float32")


def load_parameters(
    spec: DecoderSpec, checkpoint: Checkpoint, dtype: Dtype, place: Place = CPU
) -> dict[str, torch.Tensor]:
    """Parameter name to tensor. Shows progress by bytes on stderr. ModelError names the tensor that is wrong."""
    tensors = check_tensors(spec, checkpoint)
    arrays = _allocate(spec, dtype, place)
    with Progress(tensors, checkpoint) as progress:
        for parameter in parameters(spec):
            start = 0
            for source, rows in parameter.sources:
                target = arrays[parameter.name][start : start + rows]
                target.copy_(_tensor(checkpoint.read(source), tensors[source], source).view(target.shape))
                start += rows
                progress.loaded(source)
    return arrays


def random_parameters(spec: DecoderSpec, dtype: Dtype, seed: int, place: Place = CPU) -> dict[str, torch.Tensor]:
    """Weights of the usual size, the same for the same seed and kind of device; norms are 1."""
    arrays = _allocate(spec, dtype, place)
    generator = torch.Generator(place.device).manual_seed(seed)
    for parameter in parameters(spec):
        array = arrays[parameter.name]
        if parameter.is_norm:
            array.fill_(1.0)
        else:
            array.normal_(0.0, 0.02, generator=generator)
    return arrays


def _allocate(spec: DecoderSpec, dtype: Dtype, place: Place) -> dict[str, torch.Tensor]:
    kinds = {True: TORCH_DTYPES[place.norm_dtype], False: TORCH_DTYPES[dtype]}
    return {
        parameter.name: torch.empty(parameter.shape, dtype=kinds[parameter.is_norm], device=place.device)
        for parameter in parameters(spec)
    }


def _tensor(array: NDArray[np.generic], info: TensorInfo, name: str) -> torch.Tensor:
    with warnings.catch_warnings():
        # The mapped file is read-only; the tensor is only ever copied from.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        if info.dtype == "BF16" and array.dtype == np.uint16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        if array.dtype.name not in FLOATS:
            raise ModelError(f"{name} has element type {info.dtype}, which is not supported")
        return torch.from_numpy(array)
