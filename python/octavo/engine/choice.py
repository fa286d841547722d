"""Which executor runs a model, and what that one takes: weights, workspace, runtime.

    choose(config, spec, checkpoint, …) -> Choice      from file headers alone, without torch

`native` runs the whole step in Rust; `torch` runs what the native one lacks. The reason is said once, and when neither
can, the error names both.
"""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from octavo._core import NativeDecoder, NativeEncoder
from octavo.config import EngineConfig, ModelConfig
from octavo.engine.machine import multiplies_bfloat16
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint
from octavo.models.layout import Dtype, Parameter, parameter_bytes, parameters, workspace_bytes
from octavo.models.native_format import ENCODINGS, FLOATS, native_bytes
from octavo.models.pooled_layout import pooled_layout
from octavo.models.spec import DecoderSpec, EncoderSpec, PoolerSpec

ExecutorName = Literal["native", "torch", "none"]
KvDtype = Literal["float32", "float16", "bfloat16", "int8", "fp8"]

logger = logging.getLogger(__name__)

NATIVE_RUNTIME_BYTES = 64 << 20
"""Python and NumPy in the engine process. Measured with SmolLM2."""

TORCH_RUNTIME_BYTES = 400 << 20
"""Python, torch and the tokenizer in the engine process. Measured with SmolLM2: 300 MiB for torch alone, 390 in all."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """The widest step."""

    max_tokens: int
    max_samples: int
    max_model_len: int


@dataclass(frozen=True, kw_only=True)
class Choice:
    executor: ExecutorName
    dtype: str
    """How weights are kept, most of them: a float type, int8, int4, or the blocks of the file (Q4_1)."""
    kv_dtype: KvDtype
    weights_bytes: int
    workspace_bytes: int
    runtime_bytes: int

    @property
    def fixed_bytes(self) -> int:
        """All but the KV cache."""
        return self.runtime_bytes + self.weights_bytes + self.workspace_bytes


def choose(config: EngineConfig, spec: DecoderSpec, checkpoint: Checkpoint, step: Step) -> Choice:
    """Raises ModelError when no executor can run the model with these options."""
    asked, model = config.device.executor, config.model
    if config.cache.cache_dtype == "fp8":
        raise ModelError("--kv-cache-dtype fp8 needs a GPU (--device cuda); on a CPU there is int8")
    if model.quantization == "gguf" and checkpoint.source.format != "gguf":
        raise ModelError(f"--quantization gguf: {checkpoint.source.name} is no GGUF file")
    found = parameters(spec)
    encodings = _encodings(found, checkpoint, model.load_format == "dummy")
    native_lacks, torch_lacks = _native_lacks(encodings), _torch_lacks(config)
    if asked == "native" and native_lacks:
        raise ModelError(f"--executor native: {native_lacks}")
    if asked == "torch" and torch_lacks:
        raise ModelError(f"--executor torch: {torch_lacks}")
    if asked == "auto" and native_lacks and torch_lacks:
        raise ModelError(f"the native executor cannot run the model: {native_lacks}; nor can torch: {torch_lacks}")
    if asked == "torch" or native_lacks:
        if asked == "auto":
            logger.warning("torch runs the model, as the native executor cannot: %s", native_lacks)
        return _torch(config, spec, checkpoint, step)
    return _native(config, spec, found, encodings, step)


def choose_pooling(
    config: EngineConfig, spec: DecoderSpec | EncoderSpec, pooler: PoolerSpec, checkpoint: Checkpoint, step: Step
) -> Choice:
    """Of a model that pools, which the native executor runs. Raises ModelError as `choose`."""
    model = config.model
    if config.device.executor == "torch":
        raise ModelError("--executor torch: it pools no prompts; the native executor does")
    names = [name for name, _ in checkpoint.tensors()]
    found = pooled_layout(spec, pooler, names).parameters
    encodings = _encodings(found, checkpoint, model.load_format == "dummy")
    lacks = _native_lacks(encodings)
    if lacks is not None:
        raise ModelError(f"the native executor cannot run the model: {lacks}")
    if isinstance(spec, DecoderSpec):
        return _native(config, spec, found, encodings, step, pools=True)
    return Choice(
        executor="native",
        dtype=_dtype(model, found, encodings),
        kv_dtype="float32",
        weights_bytes=native_bytes(found, encodings, model),
        workspace_bytes=NativeEncoder.workspace_bytes(
            hidden_size=spec.hidden_size, intermediate_size=spec.intermediate_size, max_num_tokens=step.max_tokens
        ),
        runtime_bytes=NATIVE_RUNTIME_BYTES,
    )


def _dtype(model: ModelConfig, found: Sequence[Parameter], encodings: dict[str, str]) -> str:
    if model.quantization in ("int8", "int4"):
        return model.quantization
    return model.dtype if model.dtype != "auto" else _commonest(found, encodings)


def _native(
    config: EngineConfig,
    spec: DecoderSpec,
    found: Sequence[Parameter],
    encodings: dict[str, str],
    step: Step,
    *,
    pools: bool = False,
) -> Choice:
    model = config.model
    dtype = _dtype(model, found, encodings)
    cache_dtype = config.cache.cache_dtype
    automatic: KvDtype = "float32" if dtype == "float32" else "bfloat16" if dtype == "bfloat16" else "float16"
    return Choice(
        executor="native",
        dtype=dtype,
        kv_dtype=automatic if cache_dtype == "auto" else cache_dtype,
        weights_bytes=native_bytes(found, encodings, model),
        workspace_bytes=NativeDecoder.workspace_bytes(
            vocab_size=spec.vocab_size,
            hidden_size=spec.hidden_size,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            intermediate_size=spec.intermediate_size,
            max_num_tokens=step.max_tokens,
            max_num_seqs=step.max_samples,
            pools=pools,
        )
        + 4 * step.max_model_len * spec.rope.rotary_dim,
        runtime_bytes=NATIVE_RUNTIME_BYTES,
    )


def _torch(config: EngineConfig, spec: DecoderSpec, checkpoint: Checkpoint, step: Step) -> Choice:
    dtype = torch_dtype(config, checkpoint)
    return Choice(
        executor="torch",
        dtype=dtype,
        kv_dtype=dtype if config.cache.cache_dtype == "auto" else config.cache.cache_dtype,
        weights_bytes=parameter_bytes(spec, dtype),
        workspace_bytes=workspace_bytes(
            spec,
            max_tokens=step.max_tokens,
            max_samples=step.max_samples,
            max_model_len=step.max_model_len,
            dtype=dtype,
        ),
        runtime_bytes=TORCH_RUNTIME_BYTES,
    )


def torch_dtype(config: EngineConfig, checkpoint: Checkpoint) -> Dtype:
    """`auto`: bfloat16 for a 16-bit checkpoint where the processor multiplies bfloat16, otherwise float32."""
    if config.model.dtype != "auto":
        return config.model.dtype
    stored = stored_dtype(checkpoint)
    half = checkpoint.source.format == "safetensors" and stored in ("BF16", "F16", "bfloat16", "float16")
    return "bfloat16" if half and multiplies_bfloat16() else "float32"


def stored_dtype(checkpoint: Checkpoint) -> object:
    """The type of most weights, as the files name it; without files, what the config says."""
    sizes: dict[str, int] = {}
    for _, info in checkpoint.tensors():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
    return max(sizes, key=lambda name: sizes[name], default=_config_dtype(checkpoint))


def _native_lacks(encodings: dict[str, str]) -> str | None:
    """What keeps the native executor from running the model."""
    for name, encoding in encodings.items():
        if encoding not in ENCODINGS:
            return f"{name} is stored as {encoding}, and it reads {', '.join(ENCODINGS)}"
    return None


def _torch_lacks(config: EngineConfig) -> str | None:
    if config.model.quantization in ("int8", "int4"):
        return f"it has no --quantization {config.model.quantization}"
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed: pip install 'octavo[torch]'"
    return None


def _encodings(found: Sequence[Parameter], checkpoint: Checkpoint, dummy: bool) -> dict[str, str]:
    """How each source of a matrix is stored. A tensor that is missing is the loader's to report."""
    stored = {} if dummy else {name: info.dtype for name, info in checkpoint.tensors()}
    names = {kind: name for name, kind in FLOATS.items()}
    absent = names.get(str(_config_dtype(checkpoint)), "F32") if dummy else "F32"
    return {source: stored.get(source, absent) for matrix in _matrices(found) for source, _ in matrix.sources}


def _commonest(found: Sequence[Parameter], encodings: dict[str, str]) -> str:
    """The format of most weights."""
    counts: dict[str, int] = {}
    for matrix in _matrices(found):
        for source, rows in matrix.sources:
            kind = FLOATS.get(encodings[source], encodings[source])
            counts[kind] = counts.get(kind, 0) + rows * matrix.shape[1]
    return max(counts, key=lambda kind: counts[kind])


def _matrices(found: Sequence[Parameter]) -> list[Parameter]:
    return [parameter for parameter in found if parameter.is_matrix]


def _config_dtype(checkpoint: Checkpoint) -> object:
    """What the config says of the weights, where none are read."""
    return checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
