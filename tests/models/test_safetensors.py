"""Safetensors: exact views of the file, and one clear line for every kind of damage."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_files import tensors

from octavo.errors import ModelError
from octavo.models.safetensors import SafetensorsFile, SafetensorsWeights, weight_files


def raw(header: Any, data: bytes = b"", header_bytes: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if header_bytes is None else header_bytes) + encoded + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_tensors_are_those_of_the_official_writer(tmp_path: Path) -> None:
    wanted: dict[str, Any] = {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "long": np.arange(4, dtype=np.int64),
        "scalar": np.array(7.5, dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "flag": np.array([True, False]),
        **tensors(),
    }
    save_file(wanted, tmp_path / "model.safetensors", metadata={"format": "pt"})
    weights = SafetensorsWeights(weight_files(tmp_path))
    described = dict(weights.tensors())
    assert described.keys() == wanted.keys()
    assert described["half"].dtype == "F16"
    assert (described["long"].nbytes, described["long"].num_elements) == (32, 4)
    for name, values in wanted.items():
        read = weights.read(name)
        np.testing.assert_array_equal(read, values)
        assert read.dtype == values.dtype
        assert not read.flags.writeable


def test_stored_matrices_are_the_files_own_bytes(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    save_file({"half": values}, tmp_path / "model.safetensors")
    stored = SafetensorsWeights(weight_files(tmp_path)).stored("half")
    assert (stored.rows, stored.encoding, stored.interleaved_head) == (2, "F16", 0)
    assert stored.data.tobytes() == values.tobytes()
    assert (stored.data.shape, stored.data.flags.owndata, stored.data.flags.writeable) == ((2, 6), False, False)


def test_bfloat16_comes_as_bits(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw({"w": entry("BF16", [2], [0, 4])}, b"\x80\x3f\x00\xc0"))
    weights = SafetensorsWeights([path])
    assert dict(weights.tensors())["w"].dtype == "BF16"
    assert weights.read("w").tolist() == [0x3F80, 0xC000]  # 1.0 and -2.0


def test_shards_are_joined_by_their_index(tmp_path: Path) -> None:
    wanted = tensors()
    names = sorted(wanted)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: wanted[name] for name in members}, tmp_path / file)
    save_file(wanted, tmp_path / "unrelated.safetensors")
    index = {"weight_map": {name: file for file, members in shards.items() for name in members}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    files = weight_files(tmp_path)
    assert [file.name for file in files] == ["a.safetensors", "b.safetensors"]
    weights = SafetensorsWeights(files)
    assert sorted(name for name, _ in weights.tensors()) == names
    for name in names:
        np.testing.assert_array_equal(weights.read(name), wanted[name])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not a readable index"),
        ("[]", "not a readable index"),
        ('{"weight_map": {"w": 3}}', "not a readable index"),
        ('{"weight_map": {"w": "gone.safetensors"}}', "names gone.safetensors, but that file is missing"),
        ('{"weight_map": {"w": "../x.safetensors"}}', "not a plain file name"),
    ],
)
def test_a_broken_index(tmp_path: Path, index: str, message: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=message):
        weight_files(tmp_path)


def test_copies_in_another_format_are_left_out(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "consolidated.00.safetensors")
    save_file(tensors(), tmp_path / "model.safetensors")
    assert [file.name for file in weight_files(tmp_path)] == ["model.safetensors"]


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"w": np.zeros(2, dtype=np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match=r"'w' stands in both"):
        SafetensorsWeights(weight_files(tmp_path))


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "shorter than its header"),
    "short": (b"\x02\x00", "shorter than its header"),
    "pickle": (b"\x80\x04\x95" + b"x" * 40, "its header claims"),
    "longer than the file": (raw({}, header_bytes=1 << 40), "its header claims 1099511627776 bytes"),
    "no JSON": (raw(b"{nonsense"), "not JSON"),
    "not UTF-8": (raw(b"\xff\xfe\xfd"), "not JSON"),
    "deep JSON": (raw(b"[" * 200_000), "not JSON"),
    "list": (raw([1, 2]), "not a JSON object"),
    "no dtype": (raw({"w": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "entry of tensor 'w' is incomplete"),
    "no entry": (raw({"w": 5}), "entry of tensor 'w' is incomplete"),
    "one offset": (raw({"w": entry(offsets=[0])}, bytes(8)), "entry of tensor 'w' is incomplete"),
    "dtype": (raw({"w": entry(dtype="F33")}, bytes(8)), "unknown element type 'F33'"),
    "dtype list": (raw({"w": {**entry(), "dtype": ["F32"]}}, bytes(8)), "unknown element type"),
    "negative": (raw({"w": entry(shape=[-2])}, bytes(8)), "not natural numbers"),
    "fraction": (raw({"w": entry(shape=[2.0])}, bytes(8)), "not natural numbers"),
    "boolean": (raw({"w": entry(shape=[True], offsets=[0, 4])}, bytes(4)), "not natural numbers"),
    "size": (raw({"w": entry(shape=[3])}, bytes(8)), "needs 12 bytes and has 8"),
    "backwards": (raw({"w": entry(offsets=[8, 0])}, bytes(8)), "needs 8 bytes and has -8"),
    "huge": (raw({"w": entry(shape=[1 << 62, 1 << 62])}, bytes(8)), "and has 8"),
    "truncated": (raw({"w": entry()}, bytes(5)), "may be truncated"),
    "outside": (raw({"w": entry(offsets=[80, 88])}, bytes(8)), "may be truncated"),
    "hole": (raw({"w": entry(offsets=[8, 16])}, bytes(16)), "starts at byte 8, not 0"),
    "overlap": (raw({"v": entry(), "w": entry(offsets=[4, 12])}, bytes(12)), "starts at byte 4, not 8"),
    "trailing": (raw({"w": entry()}, bytes(12)), "tensors end at byte 8 of 12"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_one_line_that_names_the_file(tmp_path: Path, case: str) -> None:
    content, message = DAMAGED[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
