"""Which executor runs a model: native where it can, torch with one line that says why, or one clear error."""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from octavo.config import CacheConfig, DeviceConfig, EngineConfig, ModelConfig
from octavo.engine.memory import MemoryPlan, plan_memory
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, open_checkpoint
from octavo.models.source import resolve

ODD = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Checkpoint]:
    """A tiny Llama whose weights are stored as `dtype`, one of them as `odd`."""

    def made(dtype: torch.dtype = torch.float32, odd: torch.dtype | None = None) -> Checkpoint:
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = LlamaConfig(vocab_size=100, num_key_value_heads=2, max_position_embeddings=100, **sizes)
        LlamaForCausalLM(config).to(dtype).save_pretrained(tmp_path)
        if odd is not None:
            tensors = load_file(tmp_path / "model.safetensors")
            tensors[ODD] = tensors[ODD].to(odd)
            save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return open_checkpoint(resolve(str(tmp_path)))

    return made


def planned(checkpoint: Checkpoint, executor: Any = "auto", cache_dtype: Any = "auto", **model: Any) -> MemoryPlan:
    config = EngineConfig(
        model=ModelConfig(model="m", **model),
        cache=CacheConfig(cache_dtype=cache_dtype),
        device=DeviceConfig(executor=executor),
    )
    return plan_memory(config, checkpoint)


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))


@pytest.mark.parametrize(
    ("stored", "options", "dtype", "kv_dtype"),
    [
        (torch.float32, {}, "float32", "float32"),
        (torch.bfloat16, {}, "bfloat16", "bfloat16"),
        (torch.float16, {}, "float16", "float16"),
        (torch.bfloat16, {"dtype": "float32"}, "float32", "float32"),
        (torch.float32, {"dtype": "bfloat16", "cache_dtype": "float32"}, "bfloat16", "float32"),
        (torch.float32, {"quantization": "int8"}, "int8", "float16"),
        (torch.bfloat16, {"quantization": "int4", "cache_dtype": "int8"}, "int4", "int8"),
        (torch.bfloat16, {"load_format": "dummy"}, "bfloat16", "bfloat16"),
    ],
)
def test_types_of_weights_and_cache(
    make: Callable[..., Checkpoint], stored: torch.dtype, options: dict[str, Any], dtype: str, kv_dtype: str
) -> None:
    plan = planned(make(stored), **options)
    assert (plan.executor, plan.dtype, plan.kv_dtype) == ("native", dtype, kv_dtype)
    assert f"  {dtype}\n" in plan.describe()
    assert f"  {kv_dtype}, " in plan.describe()


def test_smaller_weights_take_less(make: Callable[..., Checkpoint]) -> None:
    checkpoint = make()
    sizes = [planned(checkpoint, **options).weights_bytes for options in (
        {"quantization": "int4"}, {"quantization": "int8"}, {"dtype": "bfloat16"}, {},
    )]  # fmt: skip
    assert sizes == sorted(set(sizes))


def test_torch_runs_what_native_lacks_and_one_line_says_why(
    make: Callable[..., Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert planned(make(odd=torch.float64)).executor == "torch"
    (record,) = caplog.records
    assert record.getMessage() == (
        f"torch runs the model, as the native executor cannot: {ODD} is stored as F64, and it reads "
        "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K"
    )


def test_whoever_asks_for_one_gets_it_or_an_error(
    make: Callable[..., Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = make(odd=torch.float64)
    assert planned(checkpoint, executor="torch").executor == "torch"
    assert not caplog.records
    with pytest.raises(ModelError, match=r"^--executor native: .*down_proj\.weight is stored as F64"):
        planned(checkpoint, executor="native")
    with pytest.raises(ModelError, match=r"^--executor torch: it has no --quantization int8"):
        planned(checkpoint, executor="torch", quantization="int8")
    with pytest.raises(ModelError, match=r"native executor cannot .* stored as F64.* nor can torch: it has no --quant"):
        planned(checkpoint, quantization="int4")


def test_without_torch_the_error_names_both(make: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    without_torch(monkeypatch)
    assert planned(make()).executor == "native"
    with pytest.raises(ModelError, match=r"^--executor torch: PyTorch is not installed: pip install 'octavo\[torch\]'"):
        planned(make(), executor="torch")
    with pytest.raises(ModelError, match=r"native executor cannot .* stored as F64.* nor can torch: PyTorch is not"):
        planned(make(odd=torch.float64))


def test_gguf_is_accepted_for_gguf_only(make: Callable[..., Checkpoint]) -> None:
    with pytest.raises(ModelError, match=r"--quantization gguf: .* is no GGUF file"):
        planned(make(), quantization="gguf")


def test_norms_may_be_stored_in_any_float(make: Callable[..., Checkpoint], tmp_path: Path) -> None:
    make()
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float64)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert planned(open_checkpoint(resolve(str(tmp_path)))).executor == "native"
    assert np.dtype("float64") == open_checkpoint(resolve(str(tmp_path))).read("model.norm.weight").dtype
