"""Safetensors files, read from their headers: https://github.com/huggingface/safetensors#format

A header is checked against the file before a tensor is touched: a damaged file is a ModelError that names it, never a
wrong weight. Tensors are views of the mapped file.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.errors import ModelError
from octavo.models.tensor import StoredTensor, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INDEX_NAME = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000
"""The limit that the format sets itself."""

_NUMPY_TYPES: dict[str, str] = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "F8_E4M3": "|u1",
    "F8_E5M2": "|u1",
    "F8_E8M0": "|u1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "BF16": "<u2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}


class SafetensorsFile:
    """One file: its tensors by name, and where each lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, TensorInfo] = {}
        self._offsets: dict[str, int] = {}
        try:
            size = path.stat().st_size
            if size < 8:
                raise self._damaged("it is shorter than its header")
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
        header_bytes = int.from_bytes(self._map[:8], "little")
        if header_bytes > min(size - 8, _MAX_HEADER_BYTES):
            raise self._damaged(f"its header claims {header_bytes} bytes, the file has {size}")
        self._parse(self._header(header_bytes), 8 + header_bytes, size - 8 - header_bytes)

    def _damaged(self, reason: str) -> ModelError:
        return ModelError(f"{self.path} is damaged or no safetensors file: {reason}")

    def _header(self, header_bytes: int) -> dict[str, Any]:
        try:
            header = json.loads(self._map[8 : 8 + header_bytes])
        except (ValueError, RecursionError) as error:
            raise self._damaged("its header is not JSON") from error
        if not isinstance(header, dict):
            raise self._damaged("its header is not a JSON object")
        header.pop("__metadata__", None)
        return header

    def _parse(self, header: dict[str, Any], data_start: int, data_bytes: int) -> None:
        spans: list[tuple[int, int, str]] = []
        for name, entry in header.items():
            try:
                dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            except (TypeError, KeyError, ValueError) as error:
                raise self._damaged(f"the entry of tensor {name!r} is incomplete") from error
            if not isinstance(dtype, str) or dtype not in _NUMPY_TYPES:
                raise ModelError(f"{self.path}: tensor {name!r} has the unknown element type {dtype!r}")
            if not isinstance(shape, list) or not all(_is_count(value) for value in [*shape, begin, end]):
                raise self._damaged(f"shape or offsets of tensor {name!r} are not natural numbers")
            num_bytes = math.prod(shape) * int(_NUMPY_TYPES[dtype][2:])
            if end - begin != num_bytes:
                raise self._damaged(f"tensor {name!r} needs {num_bytes} bytes and has {end - begin}")
            if end > data_bytes:
                raise self._damaged(f"tensor {name!r} ends at byte {end} of {data_bytes}; the file may be truncated")
            spans.append((begin, end, name))
            self.tensors[name] = TensorInfo(tuple(shape), dtype, num_bytes)
            self._offsets[name] = data_start + begin
        position = 0
        for begin, end, name in sorted(spans):
            if begin != position:
                raise self._damaged(f"tensor {name!r} starts at byte {begin}, not {position}")
            position = end
        if position != data_bytes:
            raise self._damaged(f"its tensors end at byte {position} of {data_bytes}")

    def read(self, name: str) -> NDArray[Any]:
        """The tensor as a read-only view of the file; see `TensorInfo.dtype` for types which NumPy lacks."""
        info = self.tensors[name]
        return self._stored_bytes(name).view(_NUMPY_TYPES[info.dtype]).reshape(info.shape)

    def stored(self, name: str) -> StoredTensor:
        info = self.tensors[name]
        rows = info.shape[0]
        return StoredTensor(self._stored_bytes(name).reshape(rows, -1), rows, info.dtype)

    def _stored_bytes(self, name: str) -> NDArray[np.uint8]:
        import numpy as np  # not needed by who only plans: 50 ms

        start = self._offsets[name]
        return np.frombuffer(self._map, np.uint8)[start : start + self.tensors[name].nbytes]


class SafetensorsWeights:
    """All tensors of a checkpoint, over one file or many.

    With an index beside the files, every tensor must be where the index says.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = {file.name: SafetensorsFile(file) for file in files}
        self._owner: dict[str, SafetensorsFile] = {}
        for file in self._files.values():
            for name in file.tensors:
                if name in self._owner:
                    raise ModelError(f"tensor {name!r} stands in both {self._owner[name].path} and {file.path}")
                self._owner[name] = file

    def tensors(self) -> Iterator[tuple[str, TensorInfo]]:
        for name, file in self._owner.items():
            yield name, file.tensors[name]

    def read(self, name: str) -> NDArray[Any]:
        return self._owner[name].read(name)

    def stored(self, name: str) -> StoredTensor:
        return self._owner[name].stored(name)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint folder: those that its index names, else all.

    Raises ModelError for an index that is not readable, or names a file which is not there.
    """
    index_path = folder / INDEX_NAME
    if not index_path.is_file():
        found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
        plain = [path for path in found if not path.name.startswith("consolidated")]
        return tuple(plain or found)
    try:
        index = json.loads(index_path.read_bytes())
        names = sorted(set(index["weight_map"].values()))
        files = tuple(folder / name for name in names)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index_path} is not a readable index of safetensors files") from error
    for name, file in zip(names, files, strict=True):
        if Path(name).name != name:
            raise ModelError(f"{index_path} names {name!r}, which is not a plain file name")
        if not file.is_file():
            raise ModelError(f"{index_path} names {name}, but that file is missing: is the download complete?")
    return files


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
