"""What a checkpoint says of a tensor before it is read, and the interface of everything that holds tensors."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

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
