"""The tokenizer of a GGUF file, from the vocabulary inside it.

    GGUFVocabulary(metadata)   the vocabulary, its special tokens and end-of-sequence ids, checked
    .tokenizer()               what a tokenizer.json says beside the lists, and the lists: the same, ready to use

Two kinds of vocabulary: `gpt2` (byte-level BPE, see `pretokenizer`) and `llama` (SentencePiece BPE with scores and byte
fallback, written as Llama 2's converted tokenizer is: merges ordered by the score of what they make).
"""

import json
from collections.abc import Mapping
from typing import Any

from octavo._core import StringList, Tokenizer
from octavo.errors import ModelError
from octavo.models.pretokenizer import PRE_TOKENIZERS

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_END_OF_TURN = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
)
"""Control tokens that end an answer although older GGUF files name only one of them as eos: llama.cpp's rule."""
_SPECIAL_KEYS = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_SPM_DEFAULT_IDS = {"bos": 1, "eos": 2, "unknown": 0}
_SPACE = "\u2581"


class GGUFVocabulary:
    """The tokenizer of a GGUF file. ModelError for a kind that octavo cannot reproduce exactly, or damaged lists."""

    def __init__(self, metadata: Mapping[str, Any], origin: str) -> None:
        self._metadata = metadata
        self._origin = origin
        self.model = self._get("model")
        if self.model not in ("gpt2", "llama"):
            raise ModelError(
                f"{origin}: GGUF tokenizer {self.model!r} is not supported (supported: gpt2, llama); "
                "name another tokenizer with --tokenizer"
            )
        self.tokens = self._strings("tokens")
        self.types: list[int] = self._numbers("token_type", default=_NORMAL)
        self.add_bos, self.add_eos = (
            self._flag("add_bos_token", self._default_add_bos()),
            self._flag("add_eos_token", False),
        )
        self.special_ids = self._special_ids()

    @property
    def special_tokens(self) -> dict[str, str]:
        """Special tokens under the names that chat templates use: bos_token, eos_token, …"""
        return {
            name: self._token(self.special_ids[key]) for key, name in _SPECIAL_KEYS.items() if key in self.special_ids
        }

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The file's own first, then control tokens that end a turn."""
        ids = [self.special_ids[key] for key in ("eos", "eot", "eom") if key in self.special_ids]
        ids += [i for i, kind in enumerate(self.types) if kind == _CONTROL and self._token(i) in _END_OF_TURN]
        return tuple(dict.fromkeys(ids))

    def tokenizer(self) -> Tokenizer:
        parts = self._byte_level_bpe() if self.model == "gpt2" else self._sentencepiece()
        document = {
            "version": "1.0",
            "added_tokens": self._added_tokens(),
            **parts,
            "post_processor": self._post_processor(),
        }
        merges = self._strings("merges") if self.model == "gpt2" else None
        try:
            return Tokenizer.from_lists(json.dumps(document).encode(), self.tokens, merges)
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def _get(self, key: str) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{key}")

    def _damaged(self, reason: str) -> ModelError:
        return ModelError(f"{self._origin}: its tokenizer is damaged: {reason}")

    def _strings(self, key: str) -> StringList:
        values = self._get(key)
        if not isinstance(values, StringList) or not len(values):
            raise self._damaged(f"tokenizer.ggml.{key} is no list of strings")
        return values

    def _token(self, token_id: int) -> str:
        try:
            return self.tokens[token_id]
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def _numbers(self, key: str, default: int | None = None) -> list[Any]:
        values = self._get(key)
        if values is None and default is not None:
            return [default] * len(self.tokens)
        if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
            raise self._damaged(f"tokenizer.ggml.{key} is no list of numbers")
        if len(values) != len(self.tokens):
            raise self._damaged(f"{len(values)} entries of tokenizer.ggml.{key} for {len(self.tokens)} tokens")
        return values

    def _flag(self, key: str, default: bool) -> bool:
        value = self._get(key)
        return default if value is None else bool(value)

    def _default_add_bos(self) -> bool:
        if self.model == "llama":
            return True
        rule = PRE_TOKENIZERS.get(self._get("pre"))
        return rule is not None and rule.add_bos

    def _special_ids(self) -> dict[str, int]:
        defaults = _SPM_DEFAULT_IDS if self.model == "llama" else {}
        ids: dict[str, int] = {}
        for key in (*_SPECIAL_KEYS, "eot", "eom"):
            token_id = self._get(f"{key}_token_id")
            token_id = defaults.get(key) if token_id is None else token_id
            if token_id is None or token_id in (-1, 0xFFFFFFFF):
                continue
            if type(token_id) is not int or not 0 <= token_id < len(self.tokens):
                raise self._damaged(f"{key}_token_id is {token_id!r}, outside of {len(self.tokens)} tokens")
            ids[key] = token_id
        return ids

    def _added_tokens(self) -> list[dict[str, Any]]:
        """Tokens that are found in text before it is split. Only control tokens are hidden from decoded text."""
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": token_id, "content": token, **flags, "special": kind != _USER_DEFINED}
            for token_id, kind in enumerate(self.types)
            if kind in (_CONTROL, _USER_DEFINED, _UNKNOWN) and (token := self._token(token_id))
        ]

    def _post_processor(self) -> dict[str, Any] | None:
        """Puts the bos and eos tokens around a text, where the file wants them."""
        wanted = [key for key, add in (("bos", self.add_bos), ("eos", self.add_eos)) if add]
        if not wanted:
            return None
        if missing := [key for key in wanted if key not in self.special_ids]:
            raise self._damaged(f"it adds {missing[0]} to every text, but has no {missing[0]}_token_id")
        tokens = {key: self._token(self.special_ids[key]) for key in wanted}

        def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
            special = {key: {"SpecialToken": {"id": token, "type_id": type_id}} for key, token in tokens.items()}
            text = {"Sequence": {"id": sequence, "type_id": type_id}}
            return [piece for piece in (special.get("bos"), text, special.get("eos")) if piece is not None]

        return {
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": around("A", 0) + around("B", 1),
            "special_tokens": {
                token: {"id": token, "ids": [self.special_ids[key]], "tokens": [token]} for key, token in tokens.items()
            },
        }

    def _byte_level_bpe(self) -> dict[str, Any]:
        name = self._get("pre")
        if name is None:
            raise ModelError(
                f"{self._origin}: the file does not say how its tokenizer splits text (no tokenizer.ggml.pre); "
                "name the original tokenizer with --tokenizer"
            )
        rule = PRE_TOKENIZERS.get(name)
        if rule is None:
            known = ", ".join(PRE_TOKENIZERS)
            raise ModelError(
                f"{self._origin}: GGUF pre-tokenizer {name!r} is not supported (supported: {known}); "
                "name the original tokenizer with --tokenizer"
            )
        return {
            "normalizer": rule.normalizer,
            "pre_tokenizer": rule.pre_tokenizer,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": _bpe(ignore_merges=rule.ignore_merges),
        }

    def _sentencepiece(self) -> dict[str, Any]:
        unknown = self._token(self.special_ids["unknown"])
        prepend = self._flag("add_space_prefix", True)
        normalizers: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
        decoders: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if prepend:
            normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
            decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        return {
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": _bpe(merges=self._merges_by_score(), unk_token=unknown, fuse_unk=True, byte_fallback=True),
        }

    def _merges_by_score(self) -> list[list[str]]:
        """Every way to make a token of two others, best score of the made token first: SentencePiece's order."""
        scores = self._numbers("scores")
        vocabulary: dict[str, int] = {}
        for token_id in range(len(self.tokens)):
            vocabulary.setdefault(self._token(token_id), token_id)
        mergeable = {t for t, i in vocabulary.items() if self.types[i] in (_NORMAL, _USER_DEFINED, _UNUSED)}
        ranked: list[tuple[float, int, int, str, str]] = []
        for token in mergeable:
            for cut in range(1, len(token)):
                left, right = token[:cut], token[cut:]
                if left in mergeable and right in mergeable:
                    ranked.append((-scores[vocabulary[token]], vocabulary[left], vocabulary[right], left, right))
        return [[left, right] for *_, left, right in sorted(ranked)]


def _bpe(
    *,
    merges: list[list[str]] | None = None,
    unk_token: str | None = None,
    fuse_unk: bool = False,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    """Without the vocabulary, and without merges that the file lists itself."""
    return {
        "type": "BPE",
        "unk_token": unk_token,
        "fuse_unk": fuse_unk,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "merges": merges,
    }
