"""A model's files as one object, whatever their format: config, tokenizer, chat template, and weights by name.

    open_checkpoint(source) -> Checkpoint

Opening reads headers and small JSON files, no weights and no torch: the API process opens a checkpoint too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from octavo._core import Tokenizer
from octavo.errors import ModelError
from octavo.models import folder as folders
from octavo.models.gguf import GGUFFile
from octavo.models.gguf_model import GGUFWeights, gguf_config
from octavo.models.safetensors import SafetensorsWeights
from octavo.models.source import Source
from octavo.models.tensor import StoredTensor, TensorInfo, Weights
from octavo.models.tokenizer_files import FolderTokenizer, GGUFTokenizer, TokenizerFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]

_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")
_UNSCALED_ROPE = ("default", "llama3", "longrope", "su", "mrope")
"""Rope types whose max_position_embeddings is the extended length already, or which have no factor."""


class Checkpoint:
    """An opened model. Tensors carry Hugging Face names in both formats."""

    def __init__(
        self,
        source: Source,
        config: dict[str, Any],
        *,
        weights: Weights | None,
        tokenizers: tuple[TokenizerFiles, ...],
        generation_config: dict[str, Any] | None = None,
        max_model_len: int | None = None,
    ) -> None:
        """`tokenizers`: the first is the tokenizer; the chat template comes from the first that has one."""
        self.source = source
        self.config = config
        """In the form of a Hugging Face config.json."""
        self.generation_config = generation_config or {}
        """The model's recommended sampling; empty when it names none."""
        self._weights = weights
        self._tokenizers = tokenizers
        self.max_model_len = max_model_len or _max_model_len(source, config)
        """The longest context that the config allows, in tokens."""

    def tokenizer(self) -> Tokenizer:
        """A new one, ready to use. ModelError when the model has none that can be used."""
        return self._tokenizers[0].tokenizer()

    @property
    def chat_template(self) -> str | None:
        """Jinja source; None when the model is no chat model."""
        return next((found for files in self._tokenizers if (found := files.chat_template) is not None), None)

    @property
    def special_tokens(self) -> dict[str, str]:
        """bos_token, eos_token, … as text, for the chat template."""
        return self._tokenizers[0].special_tokens

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer, the main one first; may be empty."""
        own = _ids(self.generation_config.get("eos_token_id")) or _ids(self.config.get("eos_token_id"))
        return tuple(dict.fromkeys((*own, *self._tokenizers[0].eos_token_ids)))

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

    def stored(self, name: str) -> StoredTensor:
        """The bytes of matrix `name` as they lie in the mapped file. KeyError for an unknown name."""
        if self._weights is None:
            raise KeyError(name)
        return self._weights.stored(name)


def open_checkpoint(source: Source, *, tokenizer: Source | None = None) -> Checkpoint:
    """Opens a resolved source. With `tokenizer` the tokenizer is taken from there, and the chat template if it has one.

    Raises ModelError for files that are missing, damaged or not supported.
    """
    others = () if tokenizer is None else (_tokenizer_of(tokenizer),)
    if source.format == "gguf":
        file = GGUFFile(source.path)
        config = gguf_config(file)
        return Checkpoint(
            source,
            config,
            weights=GGUFWeights(file, config),
            tokenizers=(*others, GGUFTokenizer(file)),
            max_model_len=config["max_position_embeddings"],
        )
    return Checkpoint(
        source,
        folders.read_config(source.path),
        weights=SafetensorsWeights(source.files) if source.files else None,
        tokenizers=(*others, FolderTokenizer(source.path)),
        generation_config=folders.read_json(source.path / "generation_config.json"),
    )


def _tokenizer_of(source: Source) -> TokenizerFiles:
    return GGUFTokenizer(GGUFFile(source.path)) if source.format == "gguf" else FolderTokenizer(source.path)


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
