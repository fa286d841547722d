"""The Rust encoder must give Transformers' hidden states and labels, whatever else is in its batch."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedModel

from octavo._core import CpuKernels, NativeEncoder
from octavo.config import ModelConfig
from octavo.engine.executor.encoder import native_encoder
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, open_checkpoint
from octavo.models.native_weights import load_pooling
from octavo.models.pooled_layout import pooled_layout
from octavo.models.pooling import longest_prompt, pooler_for
from octavo.models.registry import encoder_for
from octavo.models.source import resolve

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 300,
}
CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "head-dim-8": {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 33},
    "head-dim-20": {"hidden_size": 40, "num_attention_heads": 2},
    "one-type": {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "num_hidden_layers": 1},
    "wide": {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 200, "num_hidden_layers": 1},
}
LENGTHS = (17, 1, 290, 64, 33, 5)

TOLERANCE = 1e-4


def make(folder: Path, kind: type[PreTrainedModel] = BertModel, **changes: Any) -> PreTrainedModel:
    """A random model whose attention matters, saved to `folder`."""
    torch.manual_seed(5)
    model = kind(BertConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name:
                parameter.normal_(0.0, 0.15 if parameter.dim() == 2 else 0.1)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(resolve(str(folder)))


def load(checkpoint: Checkpoint, isa: str = "auto", threads: int = 2, **options: Any) -> NativeEncoder:
    config = ModelConfig(model=checkpoint.source.name, runner="pooling", **options)
    spec, pooler = encoder_for(checkpoint.config), pooler_for(config, checkpoint)
    assert spec is not None
    assert pooler is not None
    encoder = native_encoder(CpuKernels(threads, isa), spec, pooler, max_num_tokens=600)  # type: ignore[arg-type]
    layout = pooled_layout(spec, pooler, [name for name, _ in checkpoint.tensors()])
    load_pooling(encoder, layout, checkpoint, config)
    return encoder


def forward(encoder: NativeEncoder, prompts: Sequence[Sequence[int]], hidden: int) -> list[NDArray[np.float32]]:
    """Hidden states of each prompt, of which the second half is of the second type."""
    ends = np.cumsum([0, *map(len, prompts)], dtype=np.int32)
    positions = np.concatenate([np.arange(len(prompt), dtype=np.int32) for prompt in prompts])
    types = np.concatenate([token_types(len(prompt)) for prompt in prompts])
    out = np.zeros((ends[-1], hidden), dtype=np.float32)
    encoder.forward(np.concatenate(prompts).astype(np.int32), positions, types, ends, out)
    return [out[begin:end] for begin, end in itertools.pairwise(ends)]


def token_types(length: int) -> NDArray[np.int32]:
    return (np.arange(length) >= (length + 1) // 2).astype(np.int32)


def random_prompts(vocab_size: int) -> list[list[int]]:
    generator = np.random.default_rng(3)
    return [generator.integers(vocab_size, size=length).tolist() for length in LENGTHS]


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    model = make(tmp_path, **CASES[case])
    hidden = model.config.hidden_size
    prompts = random_prompts(model.config.vocab_size)
    if model.config.type_vocab_size == 1:
        prompts = [prompt[:1] for prompt in prompts]  # nothing is of a second type then
    ours = forward(load(opened(tmp_path)), prompts, hidden)
    for prompt, states in zip(prompts, ours, strict=True):
        ids, types = torch.tensor([prompt]), torch.tensor(token_types(len(prompt)))[None]
        with torch.inference_mode():
            theirs = model(input_ids=ids, token_type_ids=types.long()).last_hidden_state[0].numpy()
        assert np.abs(states - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.mark.parametrize("isa", CpuKernels.available())
def test_a_prompt_has_the_same_bits_alone_and_in_a_batch(isa: str, tmp_path: Path) -> None:
    model = make(tmp_path)
    prompts = random_prompts(model.config.vocab_size)
    for options in ({}, {"quantization": "int8"}):
        encoder = load(opened(tmp_path), isa, **options)
        together = forward(encoder, prompts, 64)
        reverse = forward(encoder, prompts[::-1], 64)[::-1]
        single = load(opened(tmp_path), isa, threads=1, **options)
        for prompt, states, others in zip(prompts, together, reverse, strict=True):
            (alone,) = forward(single, [prompt], 64)
            assert np.array_equal(states, alone)
            assert np.array_equal(others, alone)


@pytest.mark.parametrize(("option", "least"), [("bfloat16", 0.999), ("float16", 0.99999), ("int8", 0.995)])
def test_smaller_weights_change_little(option: str, least: float, tmp_path: Path) -> None:
    model = make(tmp_path)
    prompts = random_prompts(model.config.vocab_size)
    exact = forward(load(opened(tmp_path)), prompts, 64)
    change = {"quantization": option} if option == "int8" else {"dtype": option}
    for one, other in zip(exact, forward(load(opened(tmp_path), **change), prompts, 64), strict=True):
        cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        assert cosines.min() > least


def test_wrong_columns_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    encoder = load(opened(tmp_path))
    good = {
        "input_ids": np.zeros(4, np.int32),
        "positions": np.arange(4, dtype=np.int32),
        "types": np.zeros(4, np.int32),
        "query_start": np.array([0, 4], np.int32),
        "hidden": np.zeros((4, 64), np.float32),
    }
    encoder.forward(**good)
    for name, value in {
        "input_ids": np.full(4, 97, np.int32),
        "positions": np.full(4, 300, np.int32),
        "types": np.full(4, 2, np.int32),
        "query_start": np.array([0, 3], np.int32),
        "hidden": np.zeros((3, 64), np.float32),
    }.items():
        with pytest.raises(ValueError, match=name):
            encoder.forward(**{**good, name: value})


def test_a_checkpoint_must_fit(tmp_path: Path) -> None:
    model = make(tmp_path)
    spec = model.config.to_dict()
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value, message in (
        ("num_hidden_layers", 4, "lacks encoder.layer.3"),
        ("num_hidden_layers", 2, "has encoder.layer.2"),
        ("vocab_size", 96, "word_embeddings.weight has shape"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(ModelError, match=message):
            load(opened(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(ModelError, match="hidden_act = 'relu'"):
        encoder_for(opened(tmp_path).config)
    assert spec["hidden_act"] == "gelu"


def write_modules(folder: Path, pooling: dict[str, Any], *kinds: str) -> None:
    parts = ["Transformer", "Pooling", *kinds]
    modules = [
        {"idx": index, "name": str(index), "path": f"{index}_{part}", "type": f"sentence_transformers.models.{part}"}
        for index, part in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_a_folder_of_sentence_transformers_says_how_to_pool(tmp_path: Path) -> None:
    make(tmp_path)
    options = ModelConfig(model=str(tmp_path))
    plain = pooler_for(options, opened(tmp_path))
    assert plain is not None
    assert (plain.kind, plain.normalize, plain.width) == ("first", True, 64)
    assert plain.tasks == plain.whole == ("embed", "token_embed")
    for pooling, kinds, expected in (
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, ["Normalize"], ("mean", True)),
        ({"pooling_mode": "max"}, [], ("max", False)),
        ({"pooling_mode_lasttoken": True}, ["Normalize"], ("last", True)),
    ):
        write_modules(tmp_path, pooling, *kinds)
        pooler = pooler_for(options, opened(tmp_path))
        assert pooler is not None
        assert (pooler.kind, pooler.normalize) == expected
    write_modules(tmp_path, {"pooling_mode_mean_sqrt_len_tokens": True})
    with pytest.raises(ModelError, match="mean_sqrt_len"):
        pooler_for(options, opened(tmp_path))
    write_modules(tmp_path, {"pooling_mode": "mean"}, "Dense")
    with pytest.raises(ModelError, match="module Dense"):
        pooler_for(options, opened(tmp_path))
    (tmp_path / "modules.json").write_text("{}")
    with pytest.raises(ModelError, match=r"modules\.json"):
        pooler_for(options, opened(tmp_path))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    assert longest_prompt(opened(tmp_path)) == 128


def test_a_model_must_have_what_the_options_ask_for(tmp_path: Path) -> None:
    make(tmp_path, BertForSequenceClassification, num_labels=3)
    checkpoint = opened(tmp_path)
    found = pooler_for(ModelConfig(model="m"), checkpoint)
    assert found is not None
    assert (found.tasks, found.num_labels, found.activation) == (("classify",), 3, "softmax")
    as_vectors = pooler_for(ModelConfig(model="m", convert="embed"), checkpoint)
    assert as_vectors is not None
    assert as_vectors.tasks == ("embed", "token_embed")
    with pytest.raises(ModelError, match="generates no text: serve it with --runner pooling"):
        pooler_for(ModelConfig(model="m", runner="generate"), checkpoint)
    make(tmp_path)
    with pytest.raises(ModelError, match="has no classifier: --convert classify"):
        pooler_for(ModelConfig(model="m", task="classify"), opened(tmp_path))
    with pytest.raises(ValueError, match="task: it is the older name"):
        ModelConfig(model="m", task="embed", runner="pooling")
