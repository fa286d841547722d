"""What a checkpoint says of a tensor before it is read, and the interface of everything that holds tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as it is stored."""

    shape: tuple[int, ...]
    dtype: str
    """The stored element type: safetensors' name ("BF16", "F8_E4M3"), or GGML's for quantised blocks ("Q4_1")."""
    nbytes: int
    """Bytes in the file."""

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The bytes of a matrix where they lie in a mapped file: nothing is copied or decoded."""

    data: NDArray[np.uint8]
    """[rows, bytes a row], read-only."""
    rows: int
    encoding: str
    """F32, F16, BF16, or the name of GGML's blocks: `TensorInfo.dtype`."""
    interleaved_head: int = 0
    """Rows of one head, where llama.cpp stores the two halves of each head interleaved; else 0."""


class Weights(Protocol):
    """Named tensors of one checkpoint, under Hugging Face names."""

    def tensors(self) -> Iterator[tuple[str, TensorInfo]]:
        """Every tensor, known from the headers: no weight is read."""
        ...

    def read(self, name: str) -> NDArray[Any]:
        """One tensor, possibly a read-only view of the mapped file. KeyError for an unknown name.

        BF16 comes as its uint16 bits, 8-bit floats as uint8; GGML's quantised types are dequantised to float32.
        """
        ...

    def stored(self, name: str) -> StoredTensor:
        """A matrix as its bytes. KeyError for an unknown name, ModelError for rows that are no whole heads."""
        ...
