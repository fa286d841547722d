"""Whether a model runs on the GPU, and what it takes there, from file headers and the driver alone: without torch.

device_for(config, spec) -> Gpu | None                  which GPU; None is the CPU
gpu_choice(config, spec, checkpoint, step) -> Choice    types and sizes
"""

import logging

from octavo.backends.cuda.gpu import Gpu, find_gpus
from octavo.backends.cuda.installation import cuda_lacks
from octavo.backends.cuda.variants import HEAD_DIMS
from octavo.config import EngineConfig
from octavo.engine.choice import Choice, Step, stored_dtype
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint
from octavo.models.layout import device_parameter_bytes, device_workspace_bytes
from octavo.models.spec import DecoderSpec

logger = logging.getLogger(__name__)

GPU_RUNTIME_BYTES = 1 << 30
"""An allowance for CUDA, cuBLAS, loaded kernels, and the small buffers of attention. `make check-gpu` prints what torch
took."""

MOST_TOKENS = 1 << 20
"""Of a vocabulary; cuda/sampling.cu."""


def device_for(config: EngineConfig, spec: DecoderSpec) -> Gpu | None:
    """ModelError when the GPU was asked for and cannot be used. Why `auto` leaves a GPU alone is logged."""
    asked = config.device.device
    if asked == "cpu" or (asked == "auto" and config.device.executor == "native"):
        return None
    if asked == "auto" and not find_gpus():
        return None
    reason = _contradiction(config) or cuda_lacks() or _gpu_lacks(config, spec)
    if reason is None:
        return find_gpus()[0]
    if asked == "cuda":
        raise ModelError(f"--device cuda: {reason}")
    logger.warning("the CPU runs the model, as the GPU cannot: %s", reason)
    return None


def gpu_choice(config: EngineConfig, spec: DecoderSpec, checkpoint: Checkpoint, step: Step) -> Choice:
    """16-bit weights and activations; float32 checkpoints become bfloat16, as in vLLM."""
    dtype, cache_dtype = config.model.dtype, config.cache.cache_dtype
    if dtype == "auto" and cache_dtype in ("bfloat16", "float16"):
        dtype = cache_dtype  # a 16-bit cache has the type of the model
    elif dtype == "auto":
        dtype = "float16" if stored_dtype(checkpoint) in ("F16", "float16") else "bfloat16"
    return Choice(
        executor="torch",
        dtype=dtype,
        kv_dtype=dtype if cache_dtype == "auto" else cache_dtype,
        weights_bytes=device_parameter_bytes(spec),
        workspace_bytes=device_workspace_bytes(
            spec, max_tokens=step.max_tokens, max_samples=step.max_samples, max_model_len=step.max_model_len
        ),
        runtime_bytes=GPU_RUNTIME_BYTES,
    )


def _contradiction(config: EngineConfig) -> str | None:
    if config.device.executor == "native":
        return "--executor native runs on the CPU only"
    return None


def _gpu_lacks(config: EngineConfig, spec: DecoderSpec) -> str | None:
    """What keeps our kernels from running the model with these options."""
    model, cache = config.model, config.cache
    if model.dtype == "float32":
        return "it computes in bfloat16 or float16, not in float32 (--dtype)"
    if model.quantization in ("int8", "int4"):
        return f"it has no --quantization {model.quantization}"
    if spec.head_dim not in HEAD_DIMS:
        return f"heads of {spec.head_dim} dimensions; its kernels have {', '.join(map(str, HEAD_DIMS))}"
    if spec.hidden_size % 8 or spec.intermediate_size % 8:
        return f"rows of {spec.hidden_size} and {spec.intermediate_size} numbers; its kernels need multiples of 8"
    if spec.vocab_size > MOST_TOKENS:
        return f"a vocabulary of {spec.vocab_size} tokens; its sampling has at most {MOST_TOKENS}"
    if cache.block_size & (cache.block_size - 1):
        return f"--block-size {cache.block_size} is no power of two"
    if cache.cache_dtype in ("float32", "int8"):
        return f"it has no --kv-cache-dtype {cache.cache_dtype}; use auto or fp8"
    if cache.cache_dtype in ("bfloat16", "float16") and model.dtype not in ("auto", cache.cache_dtype):
        return (
            f"--kv-cache-dtype {cache.cache_dtype} with --dtype {model.dtype}: a 16-bit cache has the type of the model"
        )
    return None
