"""A model's files as one object, whatever their format: config, tokenizer, chat template, and weights by name.

    open_checkpoint(source) -> Checkpoint

Opening reads headers and small JSON files, no weights and no torch: the API process opens a checkpoint too.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from octavo.errors import ModelError
from octavo.models import folder as folders
from octavo.models.gguf import GGUFFile
from octavo.models.gguf_model import GGUFWeights, gguf_config
from octavo.models.safetensors import SafetensorsWeights
from octavo.models.source import Source
from octavo.models.tensor import TensorInfo, Weights
from octavo.models.tokenizer import GGUFVocabulary

__all__ = ["Checkpoint", "TensorInfo", "TokenizerFiles", "open_checkpoint"]

_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")
_UNSCALED_ROPE = ("default", "llama3", "longrope", "su", "mrope")
"""Rope types whose max_position_embeddings is the extended length already, or which have no factor."""


class TokenizerFiles:
    """What a source says of its tokenizer: built or read when first asked for, since the engine needs none of it."""

    def __init__(
        self,
        build_json: Callable[[], bytes],
        *,
        chat_template: str | None,
        special_tokens: dict[str, str],
        eos_token_ids: tuple[int, ...],
    ) -> None:
        self._build_json = build_json
        self.chat_template = chat_template
        self.special_tokens = special_tokens
        self.eos_token_ids = eos_token_ids

    @cached_property
    def json(self) -> bytes:
        return self._build_json()


class Checkpoint:
    """An opened model. Tensors carry Hugging Face names in both formats."""

    def __init__(
        self,
        source: Source,
        config: dict[str, Any],
        *,
        weights: Weights | None,
        tokenizer: TokenizerFiles,
        generation_config: dict[str, Any] | None = None,
        max_model_len: int | None = None,
    ) -> None:
        self.source = source
        self.config = config
        """In the form of a Hugging Face config.json."""
        self.generation_config = generation_config or {}
        """The model's recommended sampling; empty when it names none."""
        self._weights = weights
        self._tokenizer = tokenizer
        self.max_model_len = max_model_len or _max_model_len(source, config)
        """The longest context that the config allows, in tokens."""

    @property
    def tokenizer_json(self) -> bytes:
        """A complete tokenizer.json. ModelError when the model has none that can be used."""
        return self._tokenizer.json

    @property
    def chat_template(self) -> str | None:
        """Jinja source; None when the model is no chat model."""
        return self._tokenizer.chat_template

    @property
    def special_tokens(self) -> dict[str, str]:
        """bos_token, eos_token, … as text, for the chat template."""
        return self._tokenizer.special_tokens

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer, the main one first; may be empty."""
        own = _ids(self.generation_config.get("eos_token_id")) or _ids(self.config.get("eos_token_id"))
        return tuple(dict.fromkeys((*own, *self._tokenizer.eos_token_ids)))

    def tensors(self) -> Iterator[tuple[str, TensorInfo]]:
        """Every tensor, known from the headers alone. Empty when the source was resolved without weights."""
        return iter(()) if self._weights is None else self._weights.tensors()

    def read(self, name: str) -> NDArray[Any]:
        """Tensor `name`, possibly a read-only view of the mapped file. KeyError for an unknown name.

        BF16 comes as its uint16 bits, 8-bit floats as uint8 (`TensorInfo.dtype` tells); GGML's quantised types are
        dequantised to float32.
        """
        if self._weights is None:
            raise KeyError(name)
        return self._weights.read(name)


def open_checkpoint(source: Source, *, tokenizer: Source | None = None) -> Checkpoint:
    """Opens a resolved source. With `tokenizer` the tokenizer is taken from there, and the chat template if it has one.

    Raises ModelError for files that are missing, damaged or not supported.
    """
    if source.format == "gguf":
        return _open_gguf(source, tokenizer)
    config = folders.read_config(source.path)
    return Checkpoint(
        source,
        config,
        weights=SafetensorsWeights(source.files) if source.files else None,
        tokenizer=_tokenizer_of(tokenizer or source, default_template=folders.chat_template(source.path)),
        generation_config=folders.read_json(source.path / "generation_config.json"),
    )


def _open_gguf(source: Source, tokenizer: Source | None) -> Checkpoint:
    file = GGUFFile(source.path)
    config = gguf_config(file)
    own_template = _gguf_template(file)
    return Checkpoint(
        source,
        config,
        weights=GGUFWeights(file, config),
        tokenizer=_gguf_tokenizer(file)
        if tokenizer is None
        else _tokenizer_of(tokenizer, default_template=own_template),
        max_model_len=config["max_position_embeddings"],
    )


def _tokenizer_of(source: Source, default_template: str | None) -> TokenizerFiles:
    if source.format == "gguf":
        return _gguf_tokenizer(GGUFFile(source.path), default_template)
    special_tokens = folders.special_tokens(source.path)
    eos = folders.token_id(source.path, special_tokens.get("eos_token"))
    return TokenizerFiles(
        lambda: folders.tokenizer_json(source.path),
        chat_template=folders.chat_template(source.path) or default_template,
        special_tokens=special_tokens,
        eos_token_ids=() if eos is None else (eos,),
    )


def _gguf_tokenizer(file: GGUFFile, default_template: str | None = None) -> TokenizerFiles:
    vocabulary = GGUFVocabulary(file.metadata, str(file.path))
    return TokenizerFiles(
        vocabulary.tokenizer_json,
        chat_template=_gguf_template(file) or default_template,
        special_tokens=vocabulary.special_tokens,
        eos_token_ids=vocabulary.eos_token_ids,
    )


def _gguf_template(file: GGUFFile) -> str | None:
    template = file.metadata.get("tokenizer.chat_template")
    return template if isinstance(template, str) and template else None


def _ids(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(item for item in values if type(item) is int and item >= 0)


def _max_model_len(source: Source, config: dict[str, Any]) -> int:
    """The shortest length that the config names, times the factor of rope scalings which stretch it."""
    nested = config.get("text_config")
    text_config = nested if isinstance(nested, dict) else config
    lengths = [value for key in _LENGTH_KEYS if type(value := text_config.get(key)) is int and value > 0]
    if not lengths:
        raise ModelError(f"{source.name}: config.json names no context length ({', '.join(_LENGTH_KEYS)})")
    length = min(lengths)
    scaling = text_config.get("rope_scaling") or text_config.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise ModelError(f"{source.name}: rope_scaling in config.json is no object")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    factor = scaling.get("factor", 1.0)
    if kind in _UNSCALED_ROPE or not isinstance(factor, int | float) or factor <= 0:
        return length
    if kind == "yarn":
        original = scaling.get("original_max_position_embeddings")
        length = original if type(original) is int and original > 0 else length
    return int(length * factor)
