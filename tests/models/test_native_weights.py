"""The native loader: the same numbers from whatever file they come, and nothing of the file is kept."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from tiny_files import CONFIG, tensors, write_folder, write_gguf

from octavo._core import CpuKernels, PagedKvCache
from octavo.config import EngineConfig, ModelConfig
from octavo.engine.executor.native import native_decoder
from octavo.engine.memory import plan_memory
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, open_checkpoint
from octavo.models.native_weights import load_native
from octavo.models.registry import spec_for
from octavo.models.source import resolve

Type = gguf.GGMLQuantizationType
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def opened(path: Path) -> Checkpoint:
    return open_checkpoint(resolve(str(path)))


def logits(checkpoint: Checkpoint, model: ModelConfig | None = None) -> NDArray[np.float32]:
    """f32[tokens, vocab] of TOKENS, in one step."""
    model = model or ModelConfig(model="m")
    spec, kernels, count = spec_for(checkpoint.config), CpuKernels(2), len(TOKENS)
    decoder = native_decoder(kernels, spec, max_model_len=count, max_num_tokens=count, max_num_seqs=count)
    load_native(decoder, spec, checkpoint, model)
    planned = plan_memory(EngineConfig(model=model), checkpoint)
    assert planned.weights_bytes == decoder.weights_bytes
    cache = PagedKvCache(
        kernels,
        num_layers=spec.num_layers,
        num_blocks=1,
        block_size=16,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        max_num_seqs=1,
        max_blocks_per_seq=1,
        dtype="float32",
    )
    zero, none = np.zeros(1, dtype=np.int32), np.zeros(0, dtype=np.int32)
    cache.begin_step(
        row=zero,
        query_start=np.array([0, count], dtype=np.int32),
        seq_len=np.array([count], dtype=np.int32),
        slot_mapping=np.arange(count, dtype=np.int64),
        delta_row=zero,
        delta_column=zero,
        delta_block=zero,
        copy_source=none,
        copy_target=none,
    )
    positions, out = np.arange(count, dtype=np.int32), np.empty((count, spec.vocab_size), dtype=np.float32)
    decoder.forward(cache, np.array(TOKENS, dtype=np.int32), positions, positions, out)
    return out


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0])
def test_a_gguf_file_gives_what_its_numbers_give_as_safetensors(tmp_path: Path, kind: Type) -> None:
    """To the bit: packed as float32, the same numbers are the same weights, q and k's interleaved rows included."""
    weights = tensors()
    exact = {
        name: dequantize(quantize(values, kind), kind) if values.ndim == 2 else values
        for name, values in weights.items()
    }
    config = {**CONFIG, "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "tie_word_embeddings": False}
    folder = opened(write_folder(tmp_path / "folder", exact, config=config))
    file = opened(write_gguf(tmp_path / "m.gguf", weights, quantisation=kind))
    wanted = logits(folder)
    np.testing.assert_array_equal(logits(file, ModelConfig(model="m", dtype="float32")), wanted)
    # As stored, blocks are multiplied by int8 activations: near, and not the numbers of rows in another order.
    assert np.abs(logits(file) - wanted).max() <= 0.15 * np.abs(wanted).max()


def test_nothing_of_the_file_stays_mapped(tmp_path: Path) -> None:
    weights = tensors()
    config = {**CONFIG, "tie_word_embeddings": False}
    for file in (write_folder(tmp_path / "folder", weights, config=config), write_gguf(tmp_path / "m.gguf", weights)):
        checkpoint = opened(file)
        spec = spec_for(checkpoint.config)
        decoder = native_decoder(CpuKernels(1), spec, max_model_len=8, max_num_tokens=8, max_num_seqs=8)
        load_native(decoder, spec, checkpoint, ModelConfig(model="m"))
        assert str(file) in Path("/proc/self/maps").read_text()
        del checkpoint
        assert str(file) not in Path("/proc/self/maps").read_text()


def test_a_type_that_native_does_not_read_is_named(tmp_path: Path) -> None:
    """For whoever loads without asking `choose` first."""
    weights = {name: values.astype(np.float64) for name, values in tensors().items()}
    checkpoint = opened(write_folder(tmp_path, weights, config={**CONFIG, "tie_word_embeddings": False}))
    spec = spec_for(checkpoint.config)
    decoder = native_decoder(CpuKernels(1), spec, max_model_len=8, max_num_tokens=8, max_num_seqs=8)
    with pytest.raises(ModelError, match=r"model\.embed_tokens\.weight.*F64"):
        load_native(decoder, spec, checkpoint, ModelConfig(model="m"))
