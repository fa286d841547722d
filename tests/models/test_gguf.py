"""GGUF models: config and names as Hugging Face has them, exact weights, one clear line for every kind of damage."""

import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from tiny_files import HEAD_DIM, HEADS, HIDDEN, INTERMEDIATE, KV_HEADS, LAYERS, VOCABULARY, tensors, write_gguf

from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, open_checkpoint
from octavo.models.ggml import TYPES
from octavo.models.gguf import GGUFFile
from octavo.models.source import resolve

Type = gguf.GGMLQuantizationType


def opened(path: Path) -> Checkpoint:
    return open_checkpoint(resolve(str(path)))


def test_config_is_what_the_converter_was_given(tmp_path: Path) -> None:
    checkpoint = opened(write_gguf(tmp_path / "m.gguf", tensors()))
    assert checkpoint.config == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-5,
        "rope_theta": 50000.0,
        "max_position_embeddings": 128,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "eos_token_id": VOCABULARY - 1,
    }
    assert checkpoint.max_model_len == 128
    assert checkpoint.eos_token_ids == (VOCABULARY - 1,)
    assert checkpoint.chat_template == "{{ messages[0].content }}"
    assert checkpoint.generation_config == {}


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("llama", {}), ("llama", {"bias": True}), ("qwen2", {"bias": True}), ("qwen3", {"qk_norm": True})],
)
def test_weights_come_back_under_their_own_names(tmp_path: Path, architecture: str, options: dict[str, bool]) -> None:
    wanted = tensors(**options)
    checkpoint = opened(write_gguf(tmp_path / "m.gguf", wanted, architecture=architecture))
    described = dict(checkpoint.tensors())
    assert described.keys() == wanted.keys()
    for name, values in wanted.items():
        assert described[name].shape == values.shape
        assert (described[name].dtype, described[name].nbytes) == ("F32", values.nbytes)
        np.testing.assert_array_equal(checkpoint.read(name), values)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0])
def test_quantised_weights_are_dequantised_before_rows_are_put_back(tmp_path: Path, kind: Type) -> None:
    wanted = tensors()
    checkpoint = opened(write_gguf(tmp_path / "m.gguf", wanted, quantisation=kind))
    described = dict(checkpoint.tensors())
    for name, values in wanted.items():
        read = checkpoint.read(name)
        assert (read.dtype, read.shape) == (np.float32, values.shape)
        if values.ndim == 2:
            assert described[name].dtype == kind.name
            np.testing.assert_array_equal(read, dequantize(quantize(values, kind), kind))


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.Q4_1, Type.Q8_0])
def test_stored_matrices_are_the_files_own_bytes(tmp_path: Path, kind: Type) -> None:
    """Q and k of the llama architecture lie interleaved, and say so: the rows a head."""
    wanted = tensors()
    path = write_gguf(tmp_path / "m.gguf", wanted, quantisation=kind)
    checkpoint, whole = opened(path), path.read_bytes()
    for name, values in wanted.items():
        if values.ndim != 2:
            continue
        stored = checkpoint.stored(name)
        assert (stored.rows, stored.encoding) == (values.shape[0], kind.name)
        assert stored.interleaved_head == (HEAD_DIM if "q_proj" in name or "k_proj" in name else 0)
        assert stored.data.tobytes() in whole
        assert not stored.data.flags.owndata
        if stored.interleaved_head == 0:
            np.testing.assert_array_equal(dequantize(stored.data, kind), checkpoint.read(name))
    qwen = opened(write_gguf(tmp_path / "q.gguf", tensors(bias=True), architecture="qwen2", quantisation=kind))
    assert qwen.stored("model.layers.0.self_attn.q_proj.weight").interleaved_head == 0


def test_types_and_blocks_are_those_of_the_format() -> None:
    ours = {kind.number: (kind.name, kind.block_elements, kind.block_bytes) for kind in TYPES.values()}
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: ours[number] for number in ours.keys() & theirs.keys()} == {
        number: theirs[number] for number in ours.keys() & theirs.keys()
    }
    assert {"F16", "Q4_0", "Q6_K", "IQ4_NL"} <= {ours[number][0] for number in ours.keys() & theirs.keys()}


def test_half_precision_stays_as_it_is_stored(tmp_path: Path) -> None:
    wanted = tensors()
    half = opened(write_gguf(tmp_path / "f16.gguf", wanted, quantisation=Type.F16))
    name = "model.layers.0.self_attn.q_proj.weight"
    np.testing.assert_array_equal(half.read(name), wanted[name].astype(np.float16))
    brain = opened(write_gguf(tmp_path / "bf16.gguf", wanted, quantisation=Type.BF16))
    bits = brain.read(name)
    assert bits.dtype == np.uint16
    assert dict(brain.tensors())[name].dtype == "BF16"
    widened = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(widened, wanted[name], rtol=2**-8)


def test_a_model_without_output_weights_is_tied(tmp_path: Path) -> None:
    weights = tensors()
    del weights["lm_head.weight"]
    assert opened(write_gguf(tmp_path / "m.gguf", weights)).config["tie_word_embeddings"] is True


def test_rope_scaling(tmp_path: Path) -> None:
    def scaling(metadata: dict[str, Any], **options: Any) -> Any:
        keys = {f"llama.rope.{key}": value for key, value in metadata.items()}
        return opened(write_gguf(tmp_path / "m.gguf", tensors(), metadata=keys, **options)).config.get("rope_scaling")

    assert scaling({"scaling.type": "none"}) is None
    assert scaling({"scaling.type": "linear", "scaling.factor": 2.5}) == {"rope_type": "linear", "factor": 2.5}
    yarn = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 32}
    wanted = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    assert scaling(yarn) == wanted
    with pytest.raises(ModelError, match="rope scaling 'longrope'"):
        scaling({"scaling.type": "longrope"})


def test_llama3_rope_is_found_again_from_its_factors(tmp_path: Path) -> None:
    """The factors of Llama 3.1 8B (theta 500,000, heads of 128), computed as its model card's config says."""
    low, high = 8192 / 1.0, 8192 / 4.0
    factors = []
    for index in range(0, 128, 2):
        wavelength = 2 * np.pi * 500000.0 ** (index / 128)
        smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(8.0)
        else:
            factors.append(1 / ((1 - smooth) / 8.0 + smooth))
    keys = {"llama.attention.key_length": 128, "llama.attention.value_length": 128, "llama.rope.freq_base": 500000.0}

    def config(values: list[float]) -> dict[str, Any]:
        extra = {"rope_freqs.weight": np.array(values, dtype=np.float32)}
        return opened(write_gguf(tmp_path / "m.gguf", tensors(), metadata=keys, extra=extra)).config

    assert config(factors)["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    with pytest.raises(ModelError, match="not those of Llama 3"):
        config([1.0 + index for index in range(64)])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.block_count": None}, "llama.block_count is missing"),
        ({"llama.attention.head_count": 0}, "llama.attention.head_count is 0"),
        ({"llama.attention.head_count_kv": [2, 2]}, "positive whole number is needed"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "positive number is needed"),
        ({"llama.expert_count": 8}, "mixtures of experts"),
        ({"llama.attention.value_length": 8}, "values of another length"),
        ({"split.count": 3}, "split GGUF"),
    ],
)
def test_metadata_that_cannot_be_served_is_named(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", tensors(), metadata=metadata)
    with pytest.raises(ModelError, match=message):
        opened(path)


def test_unknown_architectures_and_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="architecture 'mamba' is not supported; supported: llama, qwen2, qwen3"):
        opened(write_gguf(tmp_path / "a.gguf", tensors(), architecture="mamba"))
    extra = {"blk.0.attn_mystery.weight": np.zeros(4, dtype=np.float32)}
    with pytest.raises(ModelError, match=r"no place for the tensor 'blk.0.attn_mystery.weight'"):
        opened(write_gguf(tmp_path / "b.gguf", tensors(), extra=extra))
    rows = {"blk.0.attn_q.weight": np.zeros((6, HIDDEN), dtype=np.float32)}
    weights = {name: value for name, value in tensors().items() if "0.self_attn.q_proj" not in name}
    with pytest.raises(ModelError, match=r"6 rows of .* do not fit 4 heads"):
        opened(write_gguf(tmp_path / "c.gguf", weights, extra=rows)).read("model.layers.0.self_attn.q_proj.weight")


def header(version: int = 3, num_tensors: int = 0, num_keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def tensor(name: str, *dimensions: int, kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot read"),
    "other": (b"\x80\x02not a model", "does not start with the letters GGUF"),
    "short": (b"GGUF\x03\x00", "may be truncated"),
    "version": (header(version=1), "version 1; versions 2 and 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "tensors": (header(num_tensors=1 << 60), "claims 1152921504606846976 tensors"),
    "keys": (header(num_keys=(1 << 64) - 1), "claims 18446744073709551615 metadata entries"),
    "string": (header(num_keys=1) + struct.pack("<Q", 1 << 50) + b"\x00" * 16, "may be truncated"),
    "text": (header(num_keys=1) + struct.pack("<Q", 2) + b"\xff\xfe" + b"\x00" * 8, "not UTF-8"),
    "kind": (header(num_keys=1) + text("k") + struct.pack("<I", 99), "unknown metadata type 99"),
    "array": (header(num_keys=1) + text("k") + struct.pack("<IIQ", 9, 4, 1 << 61), "array elements"),
    "nesting": (header(num_keys=1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 6, "too deeply"),
    "list": (header(num_keys=1) + text("k") + struct.pack("<IIQQ", 9, 8, 2, 1 << 62) + b"\x00" * 16, "be truncated"),
    "list's end": (header(num_keys=1) + text("k") + struct.pack("<IIQQ", 9, 8, 2, 9) + b"\x00" * 9, "be truncated"),
    "twice": (header(num_keys=2) + (text("k") + struct.pack("<IB", 0, 1)) * 2, "'k' stands there twice"),
    "alignment": (
        header(num_keys=1) + text("general.alignment") + struct.pack("<II", 4, 24),
        "alignment is 24, not a power of two",
    ),
    "dimensions": (header(num_tensors=1) + tensor("t", 1, 1, 1, 1, 1), "5 dimensions"),
    "no rows": (header(num_tensors=1) + tensor("t", 0, 3), "has the shape"),
    "type": (header(num_tensors=1) + tensor("t", 32, kind=77), "unknown type number 77"),
    "block": (header(num_tensors=1) + tensor("t", 33, kind=2), "no whole number of Q4_0 blocks"),
    "offset": (header(num_tensors=1) + tensor("t", 4, offset=7), "not aligned to 32"),
    "end": (header(num_tensors=1) + tensor("t", 4, offset=1 << 40), "would end at byte"),
    "huge": (header(num_tensors=1) + tensor("t", 1 << 62, 1 << 62), "would end at byte"),
    "same tensor": (header(num_tensors=2) + tensor("t", 1) * 2 + b"\x00" * 96, "'t' stands there twice"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_one_line_that_names_the_file(tmp_path: Path, case: str) -> None:
    content, message = DAMAGED[case]
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        opened(path)
    assert "damaged.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "m.gguf", tensors()).read_bytes()
    path = tmp_path / "cut.gguf"
    for size in [*range(0, 4000, 61), len(whole) // 2, len(whole) - 4096]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            opened(path)


def test_flipped_bytes_never_break_out(tmp_path: Path) -> None:
    """Whatever the bytes of a header say, the outcome is a checkpoint or a ModelError."""
    whole = write_gguf(tmp_path / "m.gguf", tensors()).read_bytes()
    rng = random.Random(5)
    path = tmp_path / "flipped.gguf"
    refused = 0
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(rng.choice([1, 4])):
            changed[rng.randrange(3500)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        path.write_bytes(changed)
        refused += _is_refused(lambda: _use(opened(path)))
    assert 100 < refused < 300


def _use(checkpoint: Checkpoint) -> None:
    _ = checkpoint.tokenizer(), checkpoint.special_tokens, checkpoint.eos_token_ids
    for name, _info in checkpoint.tensors():
        checkpoint.read(name)


def _is_refused(use: Callable[[], object]) -> bool:
    try:
        use()
    except ModelError:
        return True
    return False


def test_types_that_cannot_be_dequantised_are_named(tmp_path: Path) -> None:
    unsupported = [kind for kind in Type if not _can_dequantise(kind)]
    if not unsupported:
        pytest.skip("this gguf package dequantises every type")
    path = tmp_path / "m.gguf"
    columns, size = gguf.GGML_QUANT_SIZES[unsupported[0]]
    extra_type = unsupported[0]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((2, size), dtype=np.uint8), raw_dtype=extra_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(path)
    assert file.tensors["token_embd.weight"].shape == (2, columns)
    with pytest.raises(ModelError, match=f"type {extra_type.name}, which is not supported"):
        file.read("token_embd.weight")


def _can_dequantise(kind: Type) -> bool:
    plain = (Type.F64, Type.I8, Type.I16, Type.I32, Type.I64)
    try:
        dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), kind)
    except NotImplementedError:
        return kind in plain
    return True


def test_lists_of_strings_are_decoded_when_they_are_used(tmp_path: Path) -> None:
    strings = {"tokens": ["a", "b"], "token_type": [1, 1], "merges": ["a b"], "eos_token_id": 1}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in strings.items()}
    path = write_gguf(tmp_path / "m.gguf", tensors(), metadata=metadata)
    tokens = GGUFFile(path).metadata["tokenizer.ggml.tokens"]
    assert [tokens[0], tokens[1]] == ["a", "b"]
    with pytest.raises(IndexError):
        tokens[2]
    spelled = struct.pack("<Q", 1) + b"a" + struct.pack("<Q", 1)
    path.write_bytes(path.read_bytes().replace(spelled + b"b", spelled + b"\xff"))
    tokens = GGUFFile(path).metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 2
    assert tokens[0] == "a"
    with pytest.raises(ValueError, match="not UTF-8"):
        tokens[1]
    with pytest.raises(ModelError, match="not UTF-8"):
        opened(path).tokenizer()


def test_opening_needs_neither_torch_nor_gguf() -> None:
    code = "import sys, octavo.models.checkpoint, octavo.server.template; print({'torch', 'gguf'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
