"""What `LLM` does with a model that pools: embeddings, classes, scores, and the plain numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from octavo.inputs import Prompt, parse_prompts
from octavo.llm_engine import LLMEngine
from octavo.offline import Progress, one_each, run
from octavo.outputs import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingRequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from octavo.pooling import ANY_TASK, PoolingParams, PoolingTask, pair_up

Params = PoolingParams | Sequence[PoolingParams] | None
Text = str | Mapping[str, Any]
Pooled = str | list[int] | tuple[str, str]


class PoolingMethods:
    """The methods of `LLM` for these models. Each takes `pooling_params`, one for all prompts or one for each.

    ValueError for a prompt or a parameter that cannot be served, and for a model that does not do what is asked.
    """

    llm_engine: LLMEngine

    def encode(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling_params: Params = None,
        *,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: Progress = True,
        lora_request: None = None,
        pooling_task: PoolingTask | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> list[PoolingRequestOutput]:
        """What the model makes of each prompt, as an array: `pooling_task` says what.

        None: what the parameters say, and else what the model is for.
        """
        tasks = ANY_TASK if pooling_task is None else (pooling_task,)
        truncation = _truncation(lora_request, tokenization_kwargs, truncate_prompt_tokens)
        items = parse_prompts(prompts)
        texts: list[Pooled] = [item.prompt for item in items]
        salts = [item.cache_salt for item in items]
        return self._pool(texts, pooling_params, tasks, truncation, use_tqdm, cache_salts=salts)

    def embed(
        self, prompts: Prompt | Sequence[Prompt], *, pooling_params: Params = None, **options: Any
    ) -> list[EmbeddingRequestOutput]:
        """A vector for each prompt: `output.outputs.embedding`. `options` are those of `encode`."""
        outputs = self.encode(prompts, pooling_params, pooling_task="embed", **options)
        return [
            EmbeddingRequestOutput(**_common(output), outputs=EmbeddingOutput(output.outputs.data.tolist()))
            for output in outputs
        ]

    def classify(
        self, prompts: Prompt | Sequence[Prompt], *, pooling_params: Params = None, **options: Any
    ) -> list[ClassificationRequestOutput]:
        """The probability of each class: `output.outputs.probs`. `options` are those of `encode`."""
        outputs = self.encode(prompts, pooling_params, pooling_task="classify", **options)
        return [
            ClassificationRequestOutput(**_common(output), outputs=ClassificationOutput(output.outputs.data.tolist()))
            for output in outputs
        ]

    def reward(
        self, prompts: Prompt | Sequence[Prompt], *, pooling_params: Params = None, **options: Any
    ) -> list[PoolingRequestOutput]:
        """What a reward model says of each prompt. `options` are those of `encode`."""
        return self.encode(prompts, pooling_params, pooling_task="reward", **options)

    def score(
        self,
        data_1: Text | Sequence[Text],
        data_2: Text | Sequence[Text],
        *,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: Progress = True,
        pooling_params: PoolingParams | None = None,
        lora_request: None = None,
        chat_template: None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> list[ScoringRequestOutput]:
        """How well texts go together: one with each, or each with the one of its number. `output.outputs.score`.

        A cross-encoder reads a pair as one prompt; of a model for embeddings it is the cosine of two vectors.
        """
        if chat_template is not None:
            raise ValueError("chat_template: octavo does not do this for a score")
        truncation = _truncation(lora_request, tokenization_kwargs, truncate_prompt_tokens)
        first, second = _texts(data_1), _texts(data_2)
        pairs = pair_up(len(first), len(second))
        params = pooling_params or PoolingParams()
        if self.llm_engine.pooling.choose("score", "embed") == "score":
            texts: list[Pooled] = [(first[one], second[other]) for one, other in pairs]
            outputs = self._pool(texts, params, ("score",), truncation, use_tqdm)
            return [
                ScoringRequestOutput(**_common(output), outputs=ScoringOutput(float(output.outputs.data.flat[0])))
                for output in outputs
            ]
        from octavo.vectors import cosines

        outputs = self._pool([*first, *second], params, ("embed",), truncation, use_tqdm)
        ones, others = outputs[: len(first)], outputs[len(first) :]
        scores = cosines([each.outputs.data for each in ones], [each.outputs.data for each in others], pairs)
        return [
            ScoringRequestOutput(
                request_id=f"{ones[one].request_id}_{others[other].request_id}",
                prompt_token_ids=ones[one].prompt_token_ids + others[other].prompt_token_ids,
                num_cached_tokens=ones[one].num_cached_tokens + others[other].num_cached_tokens,
                finished=True,
                outputs=ScoringOutput(score),
            )
            for (one, other), score in zip(pairs, scores, strict=True)
        ]

    def _pool(
        self,
        prompts: Sequence[Pooled],
        pooling_params: Params,
        tasks: tuple[PoolingTask, ...],
        truncation: int | None,
        use_tqdm: Progress,
        *,
        cache_salts: Sequence[str] | None = None,
    ) -> list[PoolingRequestOutput]:
        engine = self.llm_engine
        params = one_each("pooling_params", pooling_params or PoolingParams(), len(prompts))
        if truncation is not None:
            params = [replace(each, truncate_prompt_tokens=truncation) for each in params]
        salts = cache_salts or [""] * len(prompts)

        def submit() -> Iterator[int]:
            for prompt, each, salt in zip(prompts, params, salts, strict=True):
                yield engine.submit_pooling(prompt, each, tasks, cache_salt=salt)

        return engine.collector.pop_pooled(run(engine, submit, use_tqdm, "Pooling"))


def _common(output: PoolingRequestOutput) -> dict[str, Any]:
    return {
        "request_id": output.request_id,
        "prompt_token_ids": output.prompt_token_ids,
        "num_cached_tokens": output.num_cached_tokens,
        "finished": output.finished,
    }


def _texts(data: Text | Sequence[Text]) -> list[str]:
    values = [data] if isinstance(data, str | Mapping) else data
    texts = []
    for value in values:
        text = value.get("prompt", value.get("text")) if isinstance(value, Mapping) else value
        if not isinstance(text, str):
            raise ValueError("score: a text must be a string, or a dictionary with `prompt`")
        texts.append(text)
    return texts


def _truncation(lora_request: object, kwargs: Mapping[str, Any] | None, truncate: int | None) -> int | None:
    """To how many tokens a prompt is cut. ValueError for what octavo does not do."""
    if lora_request is not None:
        raise ValueError("lora_request: octavo does not do this yet")
    others = {name: value for name, value in (kwargs or {}).items() if value is not None}
    asked = others.pop("truncate_prompt_tokens", None)
    if others:
        raise ValueError(f"tokenization_kwargs: octavo does not do {', '.join(sorted(others))} yet")
    return truncate if truncate is not None else asked
