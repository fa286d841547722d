"""The memory plan: exact from headers, cut where the user left it open, and an error that helps where not."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from octavo.backends.cuda.gpu import Gpu
from octavo.config import CacheConfig, DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from octavo.engine.machine import available_memory, cpu_quota, memory_left, usable_cores
from octavo.engine.memory import plan_memory
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, open_checkpoint
from octavo.models.source import resolve

BLOCK_BYTES = 2 * 2 * 16 * 2 * 16 * 4
"""Keys and values, 2 layers, 16 tokens, 2 heads of 16, float32."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=100, num_key_value_heads=2, max_position_embeddings=500, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return open_checkpoint(resolve(str(folder)))


def configured(
    model: dict[str, Any] | None = None,
    cache: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
    **others: Any,
) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(model="m", **(model or {})),
        cache=CacheConfig(**(cache or {})),
        scheduler=SchedulerConfig(**(scheduler or {})),
        **others,
    )


def test_a_small_model_gets_all_it_could_ever_use(checkpoint: Checkpoint) -> None:
    plan = plan_memory(configured(scheduler={"max_num_seqs": 3}), checkpoint)
    assert plan.max_model_len == 500
    assert plan.num_blocks == 3 * 32
    assert (plan.block_bytes, plan.kv_bytes) == (BLOCK_BYTES, 96 * BLOCK_BYTES)
    assert plan.max_num_batched_tokens == 2048
    assert (plan.device, plan.executor, plan.dtype, plan.kv_dtype) == ("cpu", "native", "float32", "float32")
    for part in ("native executor on the cpu", "  float32\n", "float32, 96 blocks of 16: 1,536 tokens"):
        assert part in plan.describe()


def test_torch_keeps_weights_as_they_are_shaped(checkpoint: Checkpoint) -> None:
    plan = plan_memory(configured(device=DeviceConfig(executor="torch")), checkpoint)
    assert (plan.executor, plan.dtype, plan.kv_dtype) == ("torch", "float32", "float32")
    assert plan.weights_bytes == sum(info.nbytes for _, info in checkpoint.tensors())


def test_the_cache_takes_a_modest_part_unasked(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.engine.memory.DEFAULT_KV_BYTES", 40 * BLOCK_BYTES)
    assert plan_memory(configured(), checkpoint).num_blocks == 40
    # One request of the model's length fits in any case, and whoever asks for more gets it.
    monkeypatch.setattr("octavo.engine.memory.DEFAULT_KV_BYTES", BLOCK_BYTES)
    assert plan_memory(configured(), checkpoint).num_blocks == 32
    assert plan_memory(configured(cache={"kv_cache_memory_bytes": 90 * BLOCK_BYTES}), checkpoint).num_blocks == 90


def test_the_length_is_cut_to_the_cache(checkpoint: Checkpoint) -> None:
    plan = plan_memory(configured(cache={"kv_cache_memory_bytes": 10 * BLOCK_BYTES + 1}), checkpoint)
    assert (plan.num_blocks, plan.max_model_len) == (10, 160)
    assert plan_memory(configured(cache={"num_gpu_blocks_override": 5}), checkpoint).max_model_len == 80


def test_a_length_that_was_asked_for_is_not_cut(checkpoint: Checkpoint) -> None:
    config = configured(model={"max_model_len": 200}, cache={"kv_cache_memory_bytes": 10 * BLOCK_BYTES})
    with pytest.raises(ModelError) as error:
        plan_memory(config, checkpoint)
    for part in (
        "--max-model-len 160 or less",
        f"--kv-cache-memory-bytes {13 * BLOCK_BYTES}",
        "--gpu-memory-utilization",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (configured(model={"max_model_len": 501}), "--max-model-len 501 is more than the 500"),
        (configured(cache={"kv_cache_memory_bytes": 1}), "less than one block"),
        (configured(cache={"kv_cache_memory_bytes": 1 << 60}), "do not fit the .* available"),
        (configured(cache={"gpu_memory_utilization": 1e-6}), "before any KV cache.*--gpu-memory-utilization 1e-06"),
        (configured(scheduler={"max_num_batched_tokens": 8}), "less than --max-num-seqs 256"),
        (
            configured(scheduler={"max_num_batched_tokens": 256, "enable_chunked_prefill": False}),
            "--no-enable-chunked-prefill",
        ),
        (configured(cache={"cache_dtype": "fp8"}), "--kv-cache-dtype fp8 needs a GPU"),
    ],
)
def test_errors_name_the_flag(config: EngineConfig, message: str, checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelError, match=message):
        plan_memory(config, checkpoint)


GIB = 1 << 30


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A machine with one GPU, of 24 GiB of which 22 are free, and all that it takes to use it."""
    gpu = Gpu(name="NVIDIA Test", uuid="GPU-0", capability=(8, 9), total_bytes=24 * GIB, free_bytes=22 * GIB)
    monkeypatch.setattr("octavo.engine.gpu.find_gpus", lambda: [gpu])
    monkeypatch.setattr("octavo.engine.gpu.cuda_lacks", lambda: None)
    return gpu


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """With heads that the CUDA kernels have."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=100, num_key_value_heads=2, max_position_embeddings=500, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return open_checkpoint(resolve(str(folder)))


def test_a_gpu_is_used_where_there_is_one(wide: Checkpoint, gpu: Gpu) -> None:
    plan = plan_memory(configured(scheduler={"max_num_seqs": 3}), wide)
    assert (plan.device, plan.executor, plan.dtype, plan.kv_dtype) == ("cuda", "torch", "bfloat16", "bfloat16")
    assert (plan.num_blocks, plan.block_bytes) == (3 * 32, 2 * 2 * 16 * 2 * 64 * 2)
    assert plan.weights_bytes == sum(info.nbytes // 2 for _, info in wide.tensors())
    assert "CUDA kernels on one NVIDIA Test; 22.00 GiB of memory available" in plan.describe()
    half = plan_memory(configured(cache={"cache_dtype": "float16"}), wide)
    assert (half.dtype, half.kv_dtype) == ("float16", "float16")
    assert plan_memory(configured(cache={"cache_dtype": "fp8"}), wide).block_bytes == plan.block_bytes // 2
    assert plan_memory(configured(device=DeviceConfig(device="cpu")), wide).device == "cpu"
    assert plan_memory(configured(device=DeviceConfig(executor="native")), wide).device == "cpu"


def test_a_large_gpu_takes_wide_steps(wide: Checkpoint, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan_memory(configured(), wide).max_num_batched_tokens == 2048
    large = replace(gpu, total_bytes=80 * GIB, free_bytes=80 * GIB)
    monkeypatch.setattr("octavo.engine.gpu.find_gpus", lambda: [large])
    assert plan_memory(configured(), wide).max_num_batched_tokens == 8192


@pytest.mark.parametrize(("utilization", "share"), [(0.5, 12 * GIB), (0.95, 22 * GIB)])
def test_the_cache_takes_its_share_of_the_whole_gpu_and_no_more_than_is_free(
    wide: Checkpoint, gpu: Gpu, utilization: float, share: int
) -> None:
    plan = plan_memory(
        configured(cache={"gpu_memory_utilization": utilization}, scheduler={"max_num_seqs": 99_999}), wide
    )
    taken = plan.runtime_bytes + plan.weights_bytes + plan.workspace_bytes + plan.kv_bytes
    assert share - plan.block_bytes < taken <= share


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (configured(device=DeviceConfig(device="cuda", executor="native")), "--executor native runs on the CPU only"),
        (configured(model={"dtype": "float32"}, device=DeviceConfig(device="cuda")), "not in float32"),
        (configured(model={"quantization": "int8"}, device=DeviceConfig(device="cuda")), "no --quantization int8"),
        (
            configured(cache={"block_size": 24}, device=DeviceConfig(device="cuda")),
            "--block-size 24 is no power of two",
        ),
        (configured(cache={"cache_dtype": "int8"}, device=DeviceConfig(device="cuda")), "no --kv-cache-dtype int8"),
        (
            configured(
                model={"dtype": "bfloat16"}, cache={"cache_dtype": "float16"}, device=DeviceConfig(device="cuda")
            ),
            "--kv-cache-dtype float16 with --dtype bfloat16",
        ),
        (configured(cache={"gpu_memory_utilization": 0.04}), "before any KV cache.*lower --max-num-batched-tokens"),
    ],
)
def test_what_a_gpu_cannot_do_is_said(config: EngineConfig, message: str, wide: Checkpoint, gpu: Gpu) -> None:
    with pytest.raises(ModelError, match=message):
        plan_memory(config, wide)


def test_why_the_cpu_runs_a_model_beside_a_gpu_is_logged(
    checkpoint: Checkpoint, gpu: Gpu, caplog: pytest.LogCaptureFixture
) -> None:
    assert plan_memory(configured(), checkpoint).device == "cpu"
    assert "as the GPU cannot: heads of 16 dimensions" in caplog.text


def test_a_gpu_that_was_asked_for_and_is_not_there(wide: Checkpoint) -> None:
    with pytest.raises(ModelError, match="--device cuda: "):
        plan_memory(configured(device=DeviceConfig(device="cuda")), wide)


def test_whole_prompts_widen_the_step(tmp_path: Path) -> None:
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            max_position_embeddings=5000,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    wide = open_checkpoint(resolve(str(tmp_path)))
    assert plan_memory(configured(), wide).max_num_batched_tokens == 2048
    whole = configured(scheduler={"enable_chunked_prefill": False})
    assert plan_memory(whole, wide).max_num_batched_tokens == 5000


def test_available_memory_is_within_the_machine() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < available_memory() <= int(total.split()[1]) * 1024


def test_limits_of_a_cgroup(tmp_path: Path) -> None:
    names = ("memory.max", "memory.current", "inactive_file")
    assert memory_left(tmp_path, *names) is None
    assert cpu_quota(tmp_path) == math.inf
    for name, text in {
        "memory.max": "1000\n",
        "memory.current": "700\n",
        "memory.stat": "anon 500\ninactive_file 150\n",
        "cpu.max": "150000 100000\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert memory_left(tmp_path, *names) == 450
    assert cpu_quota(tmp_path) == 1.5
    for name in ("memory.max", "cpu.max"):
        (tmp_path / name).write_text("max 100000\n" if name == "cpu.max" else "max\n")
    assert memory_left(tmp_path, *names) is None
    assert cpu_quota(tmp_path) == math.inf


def test_cores_are_within_the_affinity() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
