"""The native executor against Transformers, for every family, weight type and cache type that it serves.

The reference is Transformers in float32 on exactly the numbers that the file holds (`gguf` dequantises its blocks).
Where octavo rounds more than that, on purpose, the reference rounds the same (`emulated`): the inputs of quantised
weights, `--quantization`, the cache. Then most short prompts come out as in float32; in a few, one value lies so near
the middle of two codes that another order of summing turns its rounding round, and every later token sees that.
"""

from collections.abc import Callable
from pathlib import Path

import emulated
import pytest
import tiny
import tiny_gguf
import torch
from paged import NativePagedDecoder, Paged, PagedDecoder, Sequence
from test_decoder import TOLERANCE, assert_same, expected, prompts
from transformers import PreTrainedModel

from octavo import LLM, SamplingParams, TokensPrompt
from octavo._core import CpuKernels

ROUNDED = 0.025
"""Of the largest logit, after a rounding that fell on the other side. Leaving out int8 altogether moves as much."""

BFLOAT16_PRODUCTS = ("avx512_bf16", "amx")
"""Instruction sets whose products of bfloat16 weights round their input to bfloat16."""


def whole(decoder: Paged, tokens: list[int]) -> torch.Tensor:
    sequence = Sequence(0, tokens)
    (logits,) = decoder.step([(sequence, len(tokens))])
    decoder.release(sequence)
    return logits


def ragged(decoder: Paged, prompts: list[list[int]]) -> list[torch.Tensor]:
    """The logits of four sequences that share steps: chunks, single tokens, and one that gives way and starts again."""
    sequences = [Sequence(row + 1, tokens) for row, tokens in enumerate(prompts)]
    one, two, three, four = sequences
    got: dict[int, list[torch.Tensor]] = {sequence.row: [] for sequence in sequences}

    def run(*work: tuple[Sequence, int]) -> None:
        for (sequence, _), logits in zip(work, decoder.step(list(work)), strict=True):
            got[sequence.row].append(logits)

    run((one, 3), (two, 4), (four, 7))
    run((two, 1), (four, 2), (one, 10))
    decoder.release(four)
    got[four.row] = []
    run((three, 13), (one, 1))
    run((one, 1), (four, 11))
    run((three, 1), (one, 6), (four, 1))
    for _ in range(8):
        run((one, 1), (four, 1))
    run((four, 1))
    run((four, 20))
    for sequence in sequences:
        assert sequence.computed == len(sequence.tokens)
        decoder.release(sequence)
    return [torch.cat(got[sequence.row]) for sequence in sequences]


def assert_golden(decoder: Paged, reference: Callable[[list[int]], torch.Tensor], model: PreTrainedModel) -> None:
    """The reference's logits, and the same bits however the tokens are cut into steps."""
    texts = prompts(model)
    for tokens, logits in zip(texts, ragged(decoder, texts), strict=True):
        assert torch.equal(logits, whole(decoder, tokens))
        assert_same(logits, reference(tokens))


def assert_rounded(decoder: Paged, model: PreTrainedModel, kv_dtype: str = "float32") -> None:
    """Most short prompts as in float32; all others, and long ones, within what a few other roundings do."""
    exact = 0
    for tokens in short_prompts(model):
        logits, reference = whole(decoder, tokens), emulated.logits(model, tokens, kv_dtype)
        assert_near(logits, reference)
        exact += bool((logits - reference).abs().max() <= TOLERANCE * reference.abs().max())
    assert exact >= NUM_SHORT * 5 // 8
    texts = prompts(model)
    for tokens, logits in zip(texts, ragged(decoder, texts), strict=True):
        assert torch.equal(logits, whole(decoder, tokens))
        assert_near(logits, emulated.logits(model, tokens, kv_dtype))


NUM_SHORT = 24
LONG = 790


def short_prompts(model: PreTrainedModel) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randint(model.config.vocab_size, (1 + index % 4,), generator=generator).tolist()
        for index in range(NUM_SHORT)
    ]


def assert_near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Within ROUNDED, and the same best token wherever it leads by more than that."""
    bound = float(ROUNDED * theirs.abs().max())
    assert float((ours - theirs).abs().max()) <= bound
    best = theirs.topk(2).values
    clear = best[:, 0] - best[:, 1] > 2 * bound
    assert torch.equal(ours.argmax(-1)[clear], theirs.argmax(-1)[clear])


def input_rounding(kind: str, isa: str) -> emulated.Rounding:
    """What the products of weights of this kind do to their input."""
    if kind in ("F32", "F16", "BF16"):
        rounds = kind == "BF16" and isa in BFLOAT16_PRODUCTS
        return emulated.ROUNDINGS["bfloat16" if rounds else "float32"]
    return emulated.blocks_of_32


def round_gguf_inputs(model: PreTrainedModel, case: str, isa: str) -> None:
    tied = model.config.tie_word_embeddings

    def choose(name: str) -> emulated.Rounding:
        stored = "embed_tokens" if tied and name == "lm_head" else name
        return input_rounding(tiny_gguf.kind_of(case, stored).name, isa)

    emulated.round_inputs(model, choose)


@pytest.mark.parametrize("name", tiny.CASES)
def test_families(name: str, tmp_path: Path) -> None:
    model = tiny.make(name, tmp_path)
    ours = NativePagedDecoder(str(tmp_path))
    assert_golden(ours, lambda tokens: expected(model, tokens), model)
    tokens = prompts(model)[3]
    assert_same(whole(ours, tokens), whole(PagedDecoder(str(tmp_path)), tokens))


@pytest.mark.parametrize("name", tiny_gguf.CASES)
def test_gguf_types_in_float32(name: str, tmp_path: Path) -> None:
    """`--dtype float32` computes with the numbers of the file, and rounds nothing."""
    path, model = tiny_gguf.make_gguf(name, tmp_path)
    ours = NativePagedDecoder(str(path), dtype="float32")
    assert_golden(ours, lambda tokens: expected(model, tokens), model)


@pytest.mark.parametrize("name", tiny_gguf.CASES)
def test_gguf_types_as_stored(name: str, tmp_path: Path) -> None:
    path, model = tiny_gguf.make_gguf(name, tmp_path)
    ours = NativePagedDecoder(str(path))
    round_gguf_inputs(model, name, ours.kernels.isa)
    assert_rounded(ours, model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["llama-odd-tied", "qwen3", "qwen2-one-kv-head"])
def test_sixteen_bit_checkpoints(name: str, dtype: str, tmp_path: Path) -> None:
    model = tiny.make(name, tmp_path, dtype=getattr(torch, dtype))
    assert_golden(NativePagedDecoder(str(tmp_path), dtype="float32"), lambda tokens: expected(model, tokens), model)
    assert_sixteen_bit(NativePagedDecoder(str(tmp_path)), model, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_float32_weights_rounded_at_load(dtype: str, tmp_path: Path) -> None:
    model = tiny.make("llama-odd", tmp_path)
    ours = NativePagedDecoder(str(tmp_path), dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(parameter.to(getattr(torch, dtype)))
    assert_sixteen_bit(ours, model, dtype)


def assert_sixteen_bit(ours: NativePagedDecoder, model: PreTrainedModel, dtype: str) -> None:
    """float16 weights are exact; bfloat16 ones are where the machine has no products of their own for them."""
    if dtype == "bfloat16" and ours.kernels.isa in BFLOAT16_PRODUCTS:
        emulated.round_inputs(model, lambda _: emulated.ROUNDINGS[dtype])
        assert_rounded(ours, model)
    else:
        assert_golden(ours, lambda tokens: expected(model, tokens), model)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, how) for name in ("llama-bias", "qwen3-head-dim-80", "llama-odd") for how in ("int8", "int4")),
        # Not in int4: the last three weights of a row leave the search too much freedom.
        ("llama-odd-tied", "int8"),
    ],
)
def test_quantised_at_load(name: str, how: str, tmp_path: Path) -> None:
    """int4 searches for its scales, and must find those of weights that four bits can hold."""
    model = tiny.make(name, tmp_path)
    if how == "int4":
        emulated.round_weights(model, how)
        model.save_pretrained(tmp_path)
    ours = NativePagedDecoder(str(tmp_path), quantization=how)
    emulated.round_weights(model, how)
    emulated.round_inputs(model, lambda _: emulated.blocks_of_32)
    assert_rounded(ours, model)


@pytest.mark.parametrize("kv_dtype", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("name", ["mistral-window", "qwen3", "llama-head-dim-256", "llama-odd"])
def test_cache_types(name: str, kv_dtype: str, tmp_path: Path) -> None:
    model = tiny.make(name, tmp_path)
    assert_rounded(NativePagedDecoder(str(tmp_path), kv_dtype=kv_dtype), model, kv_dtype)


@pytest.mark.parametrize("isa", CpuKernels.available())
@pytest.mark.parametrize("name", ["llama-odd", "Q4_0-qwen3", "Q4_K_M", "mixed", "Q8_0-narrow", "Q5_1", "BF16", "F16"])
def test_instruction_sets(name: str, isa: str, tmp_path: Path) -> None:
    """Every path of this machine through the whole decoder, on more threads than some phases have work for."""
    if name in tiny.CASES:
        source, model = tmp_path, tiny.make(name, tmp_path)
    else:
        source, model = tiny_gguf.make_gguf(name, tmp_path)
        round_gguf_inputs(model, name, isa)
    for kv_dtype in ("float32", "bfloat16", "int8"):
        assert_rounded(NativePagedDecoder(str(source), isa=isa, threads=3, kv_dtype=kv_dtype), model, kv_dtype)


@pytest.mark.parametrize("name", ["llama", "llama-odd-tied", "mistral-window", "qwen2-window", "qwen3-bias"])
def test_greedy_tokens_of_an_engine(name: str, tmp_path: Path) -> None:
    """Whole, in chunks, after a prefix hit and after preemption: each token is Transformers' best one."""
    model = tiny.make(name, tmp_path)
    for options in (
        {},
        {"max_num_batched_tokens": 8, "max_num_seqs": 4},
        {"num_gpu_blocks_override": 6, "enable_prefix_caching": False},
    ):
        with LLM(str(tmp_path), executor="native", max_model_len=64, cpu_threads=2, **options) as llm:
            for _ in range(2):
                outputs = llm.generate(
                    [TokensPrompt(prompt_token_ids=tokens) for tokens in prompts(model)],
                    SamplingParams(temperature=0.0, max_tokens=15, ignore_eos=True),
                    use_tqdm=False,
                )
                for output in outputs:
                    judge(model, output.prompt_token_ids, output.outputs[0].token_ids)
            if "num_gpu_blocks_override" in options:
                assert llm.llm_engine.core.stats.num_preemptions > 0
            elif not options:
                assert any(output.num_cached_tokens for output in outputs)
            llm.llm_engine.core.check_integrity()


@pytest.mark.parametrize("block_size", [16, 12, 48])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama-no-gqa", {}),
        ("qwen3", {"num_attention_heads": 6}),
        ("mistral-window", {"sliding_window": 300}),
        ("llama-head-dim-256", {}),
    ],
)
def test_long_contexts(name: str, changes: dict[str, int], block_size: int, tmp_path: Path) -> None:
    """Attention that is cut, shared out and put together again: prefill, one long decode, and several beside others."""
    model = tiny.make(name, tmp_path, max_position_embeddings=LONG, **changes)
    texts = [tokens * 99 for tokens in prompts(model)]
    long, short, other = texts[0][: LONG - 5], texts[1][:37], texts[2][:530]
    references = [expected(model, tokens) for tokens in (long, short, other)]
    for kv_dtype in ("float32", "int8"):
        ours = NativePagedDecoder(str(tmp_path), threads=3, max_len=LONG, block_size=block_size, kv_dtype=kv_dtype)
        alone = [whole(ours, tokens) for tokens in (long, short, other)]
        one, two, three = (Sequence(row, tokens) for row, tokens in enumerate((long, short, other)))
        steps = [
            *ours.step([(one, len(long) - 2)]),
            *ours.step([(one, 1)]),
            *ours.step([(two, 30), (three, 519)]),
            *ours.step([(two, 1), (three, 10), (one, 1)]),
        ]
        assert torch.equal(torch.cat([steps[0], steps[1], steps[6]]), alone[0])
        assert torch.equal(torch.cat([steps[2], steps[4]]), alone[1][:31])
        assert torch.equal(torch.cat([steps[3], steps[5]]), alone[2][:529])
        for logits, reference in zip(alone, references, strict=True):
            if kv_dtype == "float32":
                assert_same(logits, reference)
            else:
                # The rounding itself, which `assert_rounded` judges at short length.
                assert (logits - reference).abs().max() < 0.1 * reference.abs().max()


def judge(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> None:
    assert len(answer) == 15
    logits = expected(model, [*prompt, *answer])[len(prompt) - 1 : -1]
    missing = logits.max(-1).values - logits[torch.arange(len(answer)), torch.tensor(answer)]
    assert float(missing.max()) < TOLERANCE * float(logits.abs().max())
