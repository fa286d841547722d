"""How each byte-level BPE tokenizer splits text before merging: the meaning of GGUF's `tokenizer.ggml.pre`.

A GGUF file gives only the name of the rule. Each entry is the rule of the tokenizer.json that the name stands for, so
that the tokens are those the model was trained with: digits one by one for smollm, for instance, which a plain GPT-2
rule would lose. tests/text compares with llama.cpp's tokens.
"""

from dataclasses import dataclass
from typing import Any

_BYTE_LEVEL: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTES_ONLY: dict[str, Any] = {**_BYTE_LEVEL, "use_regex": False}
_SINGLE_DIGITS: dict[str, Any] = {"type": "Digits", "individual_digits": True}

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CASED_WORDS = (
    r"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{0}"
    r"|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{0}"
)
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_GPT4O = _CASED_WORDS.format(_CONTRACTION + "?") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
_TEKKEN = _CASED_WORDS.format("") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What a name in `tokenizer.ggml.pre` settles, in the terms of tokenizer.json."""

    pre_tokenizer: dict[str, Any]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    """A whole piece that is a token stays one, whatever the merges say."""
    add_bos: bool = False
    """When the file does not say."""


_NFC = {"type": "NFC"}
_GPT2_RULE = PreTokenizer(_BYTE_LEVEL)
_GPT_NEOX_RULE = PreTokenizer(_BYTE_LEVEL, normalizer=_NFC)
_DIGITS_RULE = PreTokenizer(_sequence(_SINGLE_DIGITS, _BYTE_LEVEL))
_LLAMA3_RULE = PreTokenizer(_sequence(_split(_LLAMA3), _BYTES_ONLY), ignore_merges=True, add_bos=True)
_GPT4O_RULE = PreTokenizer(_sequence(_split(_GPT4O), _BYTES_ONLY))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": _GPT2_RULE,
    "phi-2": _GPT2_RULE,
    "mpt": _GPT_NEOX_RULE,
    "olmo": _GPT_NEOX_RULE,
    "smollm": _DIGITS_RULE,
    "starcoder": _DIGITS_RULE,
    "refact": _DIGITS_RULE,
    "codeshell": _DIGITS_RULE,
    "command-r": PreTokenizer(_sequence(_SINGLE_DIGITS, _BYTE_LEVEL), normalizer=_NFC),
    "llama3": _LLAMA3_RULE,
    "llama-v3": _LLAMA3_RULE,
    "llama-bpe": _LLAMA3_RULE,
    "qwen2": PreTokenizer(_sequence(_split(_QWEN2), _BYTES_ONLY), normalizer=_NFC),
    "deepseek-r1-qwen": PreTokenizer(_sequence(_split(_QWEN2), _BYTES_ONLY)),
    "tekken": PreTokenizer(_sequence(_split(_TEKKEN), _BYTES_ONLY), ignore_merges=True, add_bos=True),
    "gpt-4o": _GPT4O_RULE,
    "llama4": _GPT4O_RULE,
    "default": PreTokenizer(
        _sequence(
            _split(r"[\p{P}\$\+<=>\^~\|]+"),
            _split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
            _split(r"\p{N}+"),
            _split(r"[0-9][0-9][0-9]"),
            _BYTES_ONLY,
        )
    ),
}
"""`default` is llama.cpp's own rule, written into files whose converter knew no better."""
