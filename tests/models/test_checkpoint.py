"""Opening a Hugging Face folder: config, lengths, end tokens, tokenizer, chat template; errors that name the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_files import CONFIG, TOKENIZER_JSON, tensors, write_folder, write_gguf

from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, open_checkpoint
from octavo.models.source import resolve


def opened(folder: Path, **options: Any) -> Checkpoint:
    return open_checkpoint(resolve(str(folder)), **options)


def vocabulary(checkpoint: Checkpoint) -> Any:
    return json.loads(checkpoint.tokenizer().to_json())["model"]["vocab"]


def with_config(tmp_path: Path, **changes: Any) -> Checkpoint:
    return opened(write_folder(tmp_path, tensors(), config={**CONFIG, **changes}))


def test_a_folder(tmp_path: Path) -> None:
    wanted = tensors()
    generation = {"eos_token_id": [5, 6], "temperature": 0.7}
    checkpoint = opened(write_folder(tmp_path, wanted, generation_config=generation))
    assert checkpoint.config == CONFIG
    assert checkpoint.generation_config == generation
    assert checkpoint.eos_token_ids == (5, 6)
    assert vocabulary(checkpoint) == TOKENIZER_JSON["model"]["vocab"]
    assert checkpoint.chat_template is None
    assert checkpoint.max_model_len == 128
    assert {name for name, _ in checkpoint.tensors()} == wanted.keys()
    np.testing.assert_array_equal(checkpoint.read("model.norm.weight"), wanted["model.norm.weight"])
    with pytest.raises(KeyError):
        checkpoint.read("no.such.tensor")


def test_without_weights(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(resolve(str(write_folder(tmp_path)), weights=False))
    assert list(checkpoint.tensors()) == []
    with pytest.raises(KeyError):
        checkpoint.read("model.norm.weight")


def test_end_tokens_come_from_every_place_that_names_them(tmp_path: Path) -> None:
    assert with_config(tmp_path / "config", eos_token_id=[2, 9]).eos_token_ids == (2, 9)
    folder = write_folder(tmp_path / "tokenizer", tensors(), tokenizer_config={"eos_token": {"content": "</s>"}})
    (folder / "config.json").write_text(json.dumps({**CONFIG, "eos_token_id": None}))
    checkpoint = opened(folder)
    assert checkpoint.eos_token_ids == (2,)
    assert checkpoint.special_tokens == {"eos_token": "</s>"}
    decoder = {"added_tokens_decoder": {"7": {"content": "<end>"}}, "eos_token": "<end>", "bos_token": None}
    assert opened(write_folder(folder, tokenizer_config=decoder)).eos_token_ids == (2, 7)


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": None, "n_positions": 1024}, 1024),
        ({"max_position_embeddings": 4096, "seq_length": 2048}, 2048),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 512),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}}, 128),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}}, 400),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 512),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 128),
        ({"text_config": {"max_position_embeddings": 64}}, 64),
    ],
)
def test_context_lengths(tmp_path: Path, changes: dict[str, Any], length: int) -> None:
    assert with_config(tmp_path, **changes).max_model_len == length


def test_a_config_without_a_length(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="names no context length"):
        with_config(tmp_path, max_position_embeddings=None)


def test_chat_templates(tmp_path: Path) -> None:
    def template(name: str, **files: Any) -> str | None:
        return opened(write_folder(tmp_path / name, tensors(), **files)).chat_template

    assert template("plain", tokenizer_config={"chat_template": "one"}) == "one"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "usual"}]
    assert template("named", tokenizer_config={"chat_template": named}) == "usual"
    assert template("file", chat_template={"chat_template": "two"}) == "two"
    (tmp_path / "file" / "chat_template.jinja").write_text("three\n")
    assert opened(tmp_path / "file").chat_template == "three\n"


def test_a_tokenizer_from_elsewhere(tmp_path: Path) -> None:
    own = write_folder(tmp_path / "own", tensors(), tokenizer=None, tokenizer_config={"chat_template": "own"})
    other = write_folder(tmp_path / "other", tokenizer_config={"eos_token": "</s>"}, config=None)
    checkpoint = opened(own, tokenizer=resolve(str(other), weights=False))
    assert vocabulary(checkpoint) == TOKENIZER_JSON["model"]["vocab"]
    assert checkpoint.chat_template == "own"
    gguf = resolve(str(write_gguf(tmp_path / "m.gguf", tensors())), weights=False)
    assert opened(own, tokenizer=gguf).chat_template == "{{ messages[0].content }}"
    assert "ByteLevel" in opened(own, tokenizer=gguf).tokenizer().to_json()


def test_a_gguf_tokenizer_that_is_not_supported_can_be_replaced(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "m.gguf", tensors(), metadata={"tokenizer.ggml.model": "bert"})
    with pytest.raises(ModelError, match="name another tokenizer with --tokenizer"):
        _ = opened(model).eos_token_ids
    other = resolve(str(write_folder(tmp_path / "other", config=None)), weights=False)
    checkpoint = opened(model, tokenizer=other)
    assert vocabulary(checkpoint) == TOKENIZER_JSON["model"]["vocab"]
    assert checkpoint.chat_template == "{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config": None}, "has no config.json"),
        ({"config": None, "params": {}}, "Mistral-format folder"),
        ({"config": [1]}, "config.json is not a JSON object"),
        ({"generation_config": 5}, "generation_config.json is not a JSON object"),
        ({"tokenizer": None}, "has no tokenizer.json; name the tokenizer's folder or model with --tokenizer"),
        ({"tokenizer": None, "vocab": {}}, "older tokenizer"),
        ({"config": {**CONFIG, "rope_scaling": 3}}, "rope_scaling in config.json is no object"),
    ],
)
def test_files_that_are_missing_or_wrong(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _ = opened(write_folder(tmp_path, tensors(), **files)).tokenizer()


@pytest.mark.parametrize("content", ["{", "", "\x00", '{"a": 1,}', "[" * 100_000])
def test_broken_json(tmp_path: Path, content: str) -> None:
    folder = write_folder(tmp_path, tensors())
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config.json is not valid JSON") as caught:
        opened(folder)
    assert "\n" not in str(caught.value)
