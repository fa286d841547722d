"""Both loaders are strict: what does not fit is an error that names the tensor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from paged import PagedDecoder
from safetensors.torch import load_file, save_file
from tiny import make

from octavo._core import CpuKernels, NativeDecoder
from octavo.config import EngineConfig, ModelConfig
from octavo.engine.executor.native import native_decoder
from octavo.engine.memory import plan_memory
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, open_checkpoint
from octavo.models.layout import parameter_bytes, parameters
from octavo.models.native_weights import load_native
from octavo.models.registry import spec_for
from octavo.models.source import resolve
from octavo.models.weights import load_parameters, random_parameters

Tensors = dict[str, torch.Tensor]


def opened(folder: Path, change: Callable[[Tensors], None] = lambda tensors: None, name: str = "llama") -> Checkpoint:
    make(name, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return open_checkpoint(resolve(str(folder)))


def load_torch(checkpoint: Checkpoint) -> None:
    load_parameters(spec_for(checkpoint.config), checkpoint, "float32")


def load_native_decoder(checkpoint: Checkpoint, **options: Any) -> NativeDecoder:
    spec = spec_for(checkpoint.config)
    decoder = native_decoder(CpuKernels(1), spec, max_model_len=64, max_num_tokens=8, max_num_seqs=4)
    load_native(decoder, spec, checkpoint, ModelConfig(model="m", **options))
    return decoder


Load = Callable[[Checkpoint], object]


@pytest.fixture(params=[load_torch, load_native_decoder], ids=["torch", "native"])
def load(request: pytest.FixtureRequest) -> Load:
    found: Load = request.param
    return found


def test_an_unused_tensor_is_named(tmp_path: Path, load: Load) -> None:
    checkpoint = opened(tmp_path, lambda tensors: tensors.update({"model.layers.0.extra.weight": torch.ones(2)}))
    with pytest.raises(ModelError, match=r"model\.layers\.0\.extra\.weight.*does not use"):
        load(checkpoint)


def test_a_missing_tensor_is_named(tmp_path: Path, load: Load) -> None:
    def drop(tensors: Tensors) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"], tensors["model.norm.weight"]

    with pytest.raises(ModelError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight and 1 more"):
        load(opened(tmp_path, drop))


def test_a_wrong_shape_is_named(tmp_path: Path, load: Load) -> None:
    key = "model.layers.2.self_attn.k_proj.weight"
    checkpoint = opened(tmp_path, lambda tensors: tensors.update({key: torch.ones(32, 63)}))
    with pytest.raises(ModelError, match=r"k_proj\.weight has shape \[32, 63\]; the config asks for \[32, 64\]"):
        load(checkpoint)


def test_an_element_type_without_meaning_is_named(tmp_path: Path, load: Load) -> None:
    checkpoint = opened(
        tmp_path, lambda tensors: tensors.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)})
    )
    with pytest.raises(ModelError, match=r"model\.norm\.weight has element type I8"):
        load(checkpoint)


def test_stored_rotary_tables_are_passed_over(tmp_path: Path, load: Load) -> None:
    key = "model.layers.0.self_attn.rotary_emb.inv_freq"
    load(opened(tmp_path, lambda tensors: tensors.update({key: torch.ones(8)})))


def test_a_tied_head_may_be_stored_once_more_but_not_differ(tmp_path: Path, load: Load) -> None:
    def store_head(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    def change_head(tensors: Tensors) -> None:
        tensors["lm_head.weight"][0, 0] += 1

    checkpoint = opened(tmp_path / "same", store_head, "llama-tied")
    load(checkpoint)

    def both(tensors: Tensors) -> None:
        store_head(tensors)
        change_head(tensors)

    with pytest.raises(ModelError, match=r"lm_head\.weight differs"):
        load(opened(tmp_path / "other", both, "llama-tied"))


def test_fused_parameters_hold_their_sources_in_order(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    loaded = load_parameters(spec_for(checkpoint.config), checkpoint, "float32")
    rows = [stored[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(loaded["layers.1.qkv"], torch.cat(rows))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_planned_bytes_are_those_allocated(tmp_path: Path, dtype: str) -> None:
    spec = spec_for(opened(tmp_path, name="qwen3").config)
    loaded = random_parameters(spec, dtype, seed=0)
    assert parameter_bytes(spec, dtype) == sum(tensor.numel() * tensor.element_size() for tensor in loaded.values())
    assert set(loaded) == {parameter.name for parameter in parameters(spec)}


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"quantization": "int4"}])
@pytest.mark.parametrize("name", ["llama-odd", "llama-odd-tied", "qwen3-bias"])
def test_planned_bytes_are_those_that_the_native_decoder_takes(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    checkpoint = opened(tmp_path, name=name)
    plan = plan_memory(EngineConfig(model=ModelConfig(model="m", **options)), checkpoint)
    assert plan.executor == "native"
    assert plan.weights_bytes == load_native_decoder(checkpoint, **options).weights_bytes


def test_random_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    spec = spec_for(opened(tmp_path).config)
    one, same, other = (random_parameters(spec, "float32", seed)["layers.0.down"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_decoder_takes_every_parameter(tmp_path: Path) -> None:
    opened(tmp_path, name="qwen3-bias")
    PagedDecoder(str(tmp_path))
