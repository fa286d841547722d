"""`LLM`: many prompts at once, in this process, without a server.

`generate` submits every prompt to an `LLMEngine`, then turns it until all have ended.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from octavo.beams import BeamSearchOutput, BeamSearchParams, to_beams
from octavo.config import EngineConfig
from octavo.engine_args import EngineArgs
from octavo.inputs import Input, Prompt, TextPrompt, TokensPrompt, parse_prompts
from octavo.llm_engine import LLMEngine, unbounded
from octavo.llm_pooling import PoolingMethods
from octavo.logits_processors import LogitsProcessor
from octavo.offline import Progress, one_each, run
from octavo.outputs import RequestOutput
from octavo.sampling import SamplingParams
from octavo.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    from octavo.metrics_reader import Metric

__all__ = ["LLM", "TextPrompt", "TokensPrompt"]

Message = Mapping[str, Any]


class LLM(PoolingMethods):
    """A model in this process. Use it from one thread at a time."""

    def __init__(
        self,
        model: str,
        *,
        chat_template: str | None = None,
        logits_processors: Sequence[LogitsProcessor] | None = None,
        **options: Any,
    ) -> None:
        """`options` are those of `EngineArgs`, by vLLM's names; `chat_template` replaces the model's.
        `logits_processors` are called for every request, as those of its SamplingParams are.

        TypeError for an unknown one, ValueError for one that octavo does not do yet, ModelError (with one line to show)
        for a model that cannot be used.
        """
        arguments = EngineArgs(model, **{"disable_log_stats": True, **options})
        self.llm_engine = LLMEngine(
            unbounded(arguments),
            log_stats=not arguments.disable_log_stats,
            chat_template=chat_template,
            logits_processors=logits_processors,
        )
        self._enqueued: list[int] = []

    @classmethod
    def from_config(cls, config: EngineConfig) -> Self:
        """From octavo's own configuration; the null backend is reached so."""
        llm = cls.__new__(cls)
        llm.llm_engine = LLMEngine(config)
        llm._enqueued = []
        return llm

    # ------------------------------------------------------------ text

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        prompt_token_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        use_tqdm: Progress = True,
        lora_request: None = None,
        priority: Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """The finished outputs, in the order of the prompts.

        `sampling_params` is one for all, or one for each prompt; None takes the model's defaults. ValueError for a
        prompt or a parameter that cannot be served: nothing of the call runs on then, and the next call may follow.
        `prompt_token_ids` is how older scripts give prompts as ids.
        """
        special = _tokenization(lora_request, tokenization_kwargs)
        given = [each for each in (prompts, prompt_token_ids) if each is not None]
        if len(given) != 1:
            raise ValueError("prompts: give either prompts or prompt_token_ids")
        inputs = parse_prompts(given[0])
        return self._generate(lambda: self._submit(inputs, sampling_params, priority, special), use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: Progress = True,
        *,
        lora_request: None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        priority: Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """As `generate`, for one conversation or a list of them, through the model's chat template.

        `tools` are for the template; what the model then says is text, which calls nothing.
        """
        special = _tokenization(lora_request, tokenization_kwargs, add_special_tokens=False)
        inputs = self._render(
            messages,
            chat_template,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **(chat_template_kwargs or {}),
        )
        return self._generate(lambda: self._submit(inputs, sampling_params, priority, special), use_tqdm)

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams,
        lora_request: None = None,
        use_tqdm: Progress = False,
        concurrency_limit: int | None = None,
    ) -> list[BeamSearchOutput]:
        """The `beam_width` best continuations of each prompt, best first.

        `concurrency_limit`: so many prompts are searched at once. Raises as `generate`.
        """
        special = _tokenization(lora_request, None)
        inputs, sampling = parse_prompts(prompts), params.to_sampling_params()
        if concurrency_limit is not None and concurrency_limit < 1:
            raise ValueError(f"concurrency_limit: must be at least 1, not {concurrency_limit}")
        size = concurrency_limit or max(len(inputs), 1)
        outputs: list[RequestOutput] = []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            outputs += self._generate(partial(self._submit, part, sampling, None, special), use_tqdm)
        tokenizer = None if self.llm_engine.checkpoint is None else self.get_tokenizer()
        return [to_beams(output, params, tokenizer) for output in outputs]

    def enqueue(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: Progress = True,
        lora_request: None = None,
        priority: Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Takes prompts as `generate` does, for `wait_for_completion`; returns their request ids."""
        special = _tokenization(lora_request, tokenization_kwargs)
        return self._enqueue(self._submit(parse_prompts(prompts), sampling_params, priority, special))

    def enqueue_chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: Progress = True,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        priority: Sequence[int] | None = None,
    ) -> list[str]:
        """Takes conversations as `chat` does, for `wait_for_completion`; returns their request ids."""
        inputs = self._render(
            messages,
            chat_template,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **(chat_template_kwargs or {}),
        )
        return self._enqueue(self._submit(inputs, sampling_params, priority, False))

    def wait_for_completion(self, output_type: object = None, *, use_tqdm: Progress = True) -> list[RequestOutput]:
        """The finished outputs of all that was enqueued, in that order. Raises as `generate`."""
        enqueued, self._enqueued = self._enqueued, []
        return self._generate(lambda: iter(enqueued), use_tqdm)

    # ------------------------------------------------------------ state

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Frees the weights and the KV cache until `wake_up`, which loads the weights again."""
        self.llm_engine.sleep(level, mode)

    def wake_up(self, tags: Sequence[str] | None = None) -> None:
        """With `tags` ("weights", "kv_cache") the model is loaded when both have been named."""
        self.llm_engine.wake_up(tags)

    def reset_prefix_cache(self) -> bool:
        """Forgets every cached prefix, before the next prompt."""
        return self.llm_engine.reset_prefix_cache()

    def get_tokenizer(self) -> ModelTokenizer:
        return self.llm_engine.get_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """vLLM's defaults under those of the model's generation_config.json."""
        return SamplingParams.from_defaults(self.llm_engine.generation_config)

    def get_metrics(self) -> list["Metric"]:
        """The engine's metrics, by vLLM's names. ValueError unless the LLM was made with disable_log_stats=False."""
        return self.llm_engine.get_metrics()

    @property
    def model_config(self) -> Any:
        return self.llm_engine.model_config

    def collective_rpc(self, method: object, *_arguments: Any, **_options: Any) -> NoReturn:
        raise NotImplementedError("collective_rpc: octavo runs the model in one process; there are no workers to call")

    def start_profile(self, profile_prefix: str | None = None) -> NoReturn:
        raise NotImplementedError("start_profile: octavo has no profiler of its own; py-spy and perf see its threads")

    def stop_profile(self) -> NoReturn:
        raise NotImplementedError("stop_profile: octavo has no profiler of its own")

    def shutdown(self) -> None:
        """Frees the model and its memory; the object cannot be used afterwards."""
        self.llm_engine.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    # ------------------------------------------------------------ on the way

    def _render(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        chat_template: str | None,
        **variables: Any,
    ) -> list[Input]:
        """The prompt of each conversation."""
        # jinja2 and aiohttp (by the server's errors) are of no use to those who never chat.
        from octavo.server.errors import ApiError
        from octavo.server.messages import check_messages
        from octavo.server.template import ChatTemplate

        checkpoint = self.llm_engine.checkpoint
        if checkpoint is None:
            raise ValueError("there is no chat template without a model")
        source = chat_template or self.llm_engine.chat_template or checkpoint.chat_template
        if source is None:
            raise ValueError("chat_template: the model has none; give one")
        template = ChatTemplate(source, checkpoint.special_tokens)
        conversations = [messages] if messages and isinstance(messages[0], Mapping) else messages
        inputs = []
        for conversation in cast(Sequence[Sequence[Message]], conversations):
            try:
                checked = check_messages([dict(message) for message in conversation])
            except ApiError as error:
                raise ValueError(error.message) from None
            inputs.append(Input(template.render(checked, **variables), None))
        return inputs

    def _generate(self, submit: Callable[[], Iterable[int]], use_tqdm: Progress) -> list[RequestOutput]:
        return self.llm_engine.collector.pop(run(self.llm_engine, submit, use_tqdm))

    def _submit(
        self,
        inputs: list[Input],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: Sequence[int] | None,
        add_special_tokens: bool,
    ) -> Iterator[int]:
        """Checks all, then submits one after the other."""
        given = self.get_default_sampling_params() if sampling_params is None else sampling_params
        params = one_each("sampling_params", given, len(inputs))
        priorities = one_each("priority", 0 if priority is None else priority, len(inputs))
        samplings = [each.to_core() for each in params]
        for item, parameters, sampling, rank in zip(inputs, params, samplings, priorities, strict=True):
            yield self.llm_engine.submit(
                item, parameters, sampling=sampling, priority=rank, add_special_tokens=add_special_tokens
            )

    def _enqueue(self, requests: Iterator[int]) -> list[str]:
        begun = len(self._enqueued)
        try:
            self._enqueued.extend(requests)
        except BaseException:
            self.llm_engine.finish(self._enqueued[begun:])
            del self._enqueued[begun:]
            raise
        return [str(request) for request in self._enqueued[begun:]]


def _tokenization(lora_request: object, kwargs: Mapping[str, Any] | None, add_special_tokens: bool = True) -> bool:
    """Whether special tokens are added. ValueError for what octavo does not do."""
    if lora_request is not None:
        raise ValueError("lora_request: octavo does not do this yet")
    others = {name: value for name, value in (kwargs or {}).items() if value is not None}
    special = others.pop("add_special_tokens", add_special_tokens)
    if others:
        raise ValueError(f"tokenization_kwargs: octavo does not do {', '.join(sorted(others))} yet")
    return bool(special)
