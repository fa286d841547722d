"""The GGUF container: metadata and tensors, checked against the file's size before anything is believed.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian). Lists of strings,
which are most of a header, stay encoded: the tokenizer takes SmolLM2's 49,152 tokens and 48,900 merges as they are, and
the engine needs none of them. `gguf_model` turns the result into a Hugging Face config and names.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo._core import StringList
from octavo.errors import ModelError
from octavo.models.ggml import TYPES, TensorType, dequantise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_MAX_NESTING = 4
_MIN_KEY_VALUE_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    shape: tuple[int, ...]
    """Rows first: the reverse of the order in the file."""
    type: TensorType
    offset: int
    """From the start of the file."""
    nbytes: int


class GGUFFile:
    """A mapped GGUF file: `metadata` by key, `tensors` by the names in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, GGUFTensor] = {}
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        self._position = 0
        self._read_header()

    def read(self, name: str) -> NDArray[Any]:
        """Tensor `name`: a read-only view for unquantised types (BF16 as its uint16 bits), else new float32."""
        tensor, rows = self.tensors[name], self.rows(name)
        if tensor.type.plain is not None:
            return rows.view(tensor.type.plain).reshape(tensor.shape)
        try:
            return dequantise(rows, tensor.type)
        except ModelError as error:
            raise ModelError(f"{self.path}: tensor {name!r} has the type {tensor.type.name}, {error}") from None

    def rows(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of tensor `name`, one row for each row of the tensor: uint8[rows, bytes a row]."""
        import numpy as np  # not needed by who only plans: 50 ms

        tensor = self.tensors[name]
        data = np.frombuffer(self._map, dtype=np.uint8, count=tensor.nbytes, offset=tensor.offset)
        return data.reshape(*tensor.shape[:-1], -1)

    def _text(self, start: int, end: int) -> str:
        try:
            return self._map[start:end].decode()
        except UnicodeDecodeError as error:
            raise self._damaged(f"the string at byte {start} is not UTF-8") from error

    def _damaged(self, reason: str) -> ModelError:
        return ModelError(f"{self.path} is damaged or no GGUF file: {reason}")

    def _inside_header(self) -> ModelError:
        return self._damaged(f"it ends at byte {len(self._map)}, inside its header; it may be truncated")

    def _take(self, size: int) -> int:
        """Moves over `size` bytes, and returns where they start."""
        start = self._position
        if size > len(self._map) - start:
            raise self._inside_header()
        self._position = start + size
        return start

    def _scalar(self, code: str) -> Any:
        return struct.unpack_from(code, self._map, self._take(struct.calcsize(code)))[0]

    def _string(self) -> str:
        size = self._scalar("<Q")
        start = self._take(size)
        return self._text(start, start + size)

    def _count(self, what: str, min_bytes: int) -> int:
        """A count of things that take `min_bytes` or more each; more than the file can hold is an error."""
        count: int = self._scalar("<Q")
        if count * min_bytes > len(self._map) - self._position:
            raise self._damaged(f"it claims {count} {what}, more than its size allows")
        return count

    def _value(self, kind: int, nesting: int = 0) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(nesting)
        if kind not in _SCALARS:
            raise self._damaged(f"unknown metadata type {kind} at byte {self._position}")
        return self._scalar(_SCALARS[kind])

    def _array(self, nesting: int) -> Sequence[Any] | StringList:
        if nesting == _MAX_NESTING:
            raise self._damaged("its metadata is nested too deeply")
        kind = self._scalar("<I")
        if kind in _SCALARS:
            count = self._count("array elements", struct.calcsize(_SCALARS[kind]))
            start = self._take(count * struct.calcsize(_SCALARS[kind]))
            return list(struct.unpack_from(f"<{count}{_SCALARS[kind][1]}", self._map, start))
        count = self._count("array elements", 8)
        if kind == _STRING:
            return self._strings(count)
        return [self._value(kind, nesting + 1) for _ in range(count)]

    def _strings(self, count: int) -> StringList:
        try:
            strings = StringList(self._map, self._position, count)
        except ValueError:
            raise self._inside_header() from None
        self._take(strings.num_bytes)
        return strings

    def _read_header(self) -> None:
        if self._map[:4] != b"GGUF":
            raise self._damaged("it does not start with the letters GGUF")
        self._take(4)
        version = self._scalar("<I")
        if version not in (2, 3):
            hint = "big-endian files are not supported" if version & 0xFFFF == 0 else "versions 2 and 3 are supported"
            raise ModelError(f"{self.path} has the GGUF version {version}; {hint}")
        num_tensors = self._count("tensors", _MIN_TENSOR_BYTES)
        for _ in range(self._count("metadata entries", _MIN_KEY_VALUE_BYTES)):
            key = self._string()
            if key in self.metadata:
                raise self._damaged(f"the metadata key {key!r} stands there twice")
            self.metadata[key] = self._value(self._scalar("<I"))
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            raise self._damaged(f"its alignment is {alignment!r}, not a power of two")
        described = [self._describe() for _ in range(num_tensors)]
        data_start = -(-self._position // alignment) * alignment
        for name, shape, kind, offset in described:
            self._add(name, shape, kind, offset, data_start, alignment)

    def _describe(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        num_dimensions = self._scalar("<I")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise self._damaged(f"tensor {name!r} has {num_dimensions} dimensions")
        shape = tuple(self._scalar("<Q") for _ in range(num_dimensions))[::-1]
        if 0 in shape:
            raise self._damaged(f"tensor {name!r} has the shape {shape}")
        return name, shape, self._scalar("<I"), self._scalar("<Q")

    def _add(
        self, name: str, shape: tuple[int, ...], type_id: int, offset: int, data_start: int, alignment: int
    ) -> None:
        if name in self.tensors:
            raise self._damaged(f"tensor {name!r} stands there twice")
        if (kind := TYPES.get(type_id)) is None:
            raise ModelError(f"{self.path}: tensor {name!r} has the unknown type number {type_id}")
        if shape[-1] % kind.block_elements:
            raise self._damaged(f"rows of tensor {name!r} are no whole number of {kind.name} blocks")
        nbytes = math.prod(shape) // kind.block_elements * kind.block_bytes
        if offset % alignment:
            raise self._damaged(f"tensor {name!r} starts at offset {offset}, which is not aligned to {alignment}")
        start = data_start + offset
        if start + nbytes > len(self._map):
            raise self._damaged(
                f"tensor {name!r} would end at byte {start + nbytes} of {len(self._map)}; it may be truncated"
            )
        self.tensors[name] = GGUFTensor(shape, kind, start, nbytes)
