"""Random BERTs of a few kilobytes, as folders: for embeddings, with classes, and as a cross-encoder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

WORDS = ["the", "a", "cat", "dog", "sits", "runs", "on", "under", "mat", "tree", "red", "small", "quick", "old"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HIDDEN, INTERMEDIATE, LAYERS, LENGTH = 32, 64, 2, 64


def write(folder: Path, *, num_labels: int = 0, **config: Any) -> Path:
    """A BERT with `num_labels` classes; 0: without a head, for embeddings by the mean of its tokens."""
    vocabulary = [*SPECIAL, *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {
        "vocab_size": len(vocabulary),
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "max_position_embeddings": LENGTH,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
    }
    architecture = "BertForSequenceClassification" if num_labels else "BertModel"
    labels = {"id2label": {str(label): f"CLASS_{label}" for label in range(num_labels)}} if num_labels else {}
    text = {"architectures": [architecture], "model_type": "bert", **sizes, **labels, **config}
    (folder / "config.json").write_text(json.dumps(text))
    save_file(tensors(len(vocabulary), num_labels), folder / "model.safetensors")
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    if not num_labels:
        modules = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir(exist_ok=True)
        pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def tensors(vocab_size: int, num_labels: int) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(7)
    found: dict[str, NDArray[np.float32]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        found[f"{name}.weight"] = (random.standard_normal((rows, columns)) * 0.3).astype(np.float32)
        found[f"{name}.bias"] = (random.standard_normal(rows) * 0.1).astype(np.float32)

    def norm(name: str) -> None:
        found[f"{name}.weight"] = np.ones(HIDDEN, np.float32)
        found[f"{name}.bias"] = np.zeros(HIDDEN, np.float32)

    prefix = "bert." if num_labels else ""
    for name, rows in (("word", vocab_size), ("position", LENGTH), ("token_type", 2)):
        values = random.standard_normal((rows, HIDDEN)) * (1.0 if name == "word" else 0.3)
        found[f"{prefix}embeddings.{name}_embeddings.weight"] = values.astype(np.float32)
    norm(f"{prefix}embeddings.LayerNorm")
    for layer in range(LAYERS):
        base = f"{prefix}encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            linear(f"{base}.attention.self.{name}", HIDDEN, HIDDEN)
        linear(f"{base}.attention.output.dense", HIDDEN, HIDDEN)
        norm(f"{base}.attention.output.LayerNorm")
        linear(f"{base}.intermediate.dense", INTERMEDIATE, HIDDEN)
        linear(f"{base}.output.dense", HIDDEN, INTERMEDIATE)
        norm(f"{base}.output.LayerNorm")
    linear(f"{prefix}pooler.dense", HIDDEN, HIDDEN)
    if num_labels:
        linear("classifier", num_labels, HIDDEN)
    return found
