"""Every family must give Transformers' logits, however the tokens are cut into steps."""

from pathlib import Path

import pytest
import tiny_gguf
import torch
from paged import PagedDecoder, Sequence
from tiny import CASES, make

TOLERANCE = 1e-4
"""Of the largest logit: float32 sums in another order."""


def expected(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
    if tolerance == TOLERANCE:
        assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


def prompts(model: torch.nn.Module) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    vocab_size = model.config.vocab_size
    return [torch.randint(vocab_size, (length,), generator=generator).tolist() for length in (29, 5, 14, 41)]


@pytest.fixture(scope="module", params=CASES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PagedDecoder, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("tiny")
    model = make(request.param, folder)
    return PagedDecoder(str(folder)), model


def test_whole(case: tuple[PagedDecoder, torch.nn.Module]) -> None:
    ours, theirs = case
    tokens = prompts(theirs)[3]
    (logits,) = ours.step([(Sequence(0, tokens), 41)])
    assert_same(logits, expected(theirs, tokens))


def test_chunked_ragged_and_decoding(case: tuple[PagedDecoder, torch.nn.Module]) -> None:
    """Four sequences in scattered blocks: chunks, then one token at a time while another still prefills."""
    ours, theirs = case
    sequences = [Sequence(row + 1, tokens) for row, tokens in enumerate(prompts(theirs))]
    one, two, three, four = sequences
    got: dict[int, list[torch.Tensor]] = {sequence.row: [] for sequence in sequences}
    schedule = [
        [(one, 3), (two, 4)],
        [(two, 1), (four, 9), (one, 10)],
        [(three, 13), (one, 1)],
        [(one, 1)],
        [(three, 1), (one, 6), (four, 32)],
        *([(one, 1)] for _ in range(8)),
    ]
    for work in schedule:
        for (sequence, _), logits in zip(work, ours.step(work), strict=True):
            got[sequence.row].append(logits)
    for sequence in sequences:
        assert sequence.computed == len(sequence.tokens)
        assert_same(torch.cat(got[sequence.row]), expected(theirs, sequence.tokens))


@pytest.mark.parametrize("name", ["llama-bias", "qwen3"])
def test_sixteen_bit_checkpoints(name: str, tmp_path: Path) -> None:
    """The same stored numbers, read as float32, are exact; computed in bfloat16 they are near."""
    model = make(name, tmp_path, dtype=torch.bfloat16)
    tokens = prompts(model)[0]
    gold = expected(model, tokens)
    (exact,) = PagedDecoder(str(tmp_path)).step([(Sequence(0, tokens), len(tokens))])
    assert_same(exact, gold)
    (near,) = PagedDecoder(str(tmp_path), dtype="bfloat16").step([(Sequence(0, tokens), len(tokens))])
    assert_same(near, gold, tolerance=0.05)


@pytest.mark.parametrize("name", tiny_gguf.CASES)
def test_gguf_types(name: str, tmp_path: Path) -> None:
    path, model = tiny_gguf.make_gguf(name, tmp_path)
    tokens = prompts(model)[0]
    (logits,) = PagedDecoder(str(path)).step([(Sequence(0, tokens), len(tokens))])
    assert_same(logits, expected(model, tokens))
