"""`LLM`: many prompts at once, in this process, without a server.

The same engine and front end as under the server, joined by an in-process ring. `generate` submits every prompt, then
turns the engine's loop itself until all have ended.
"""

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from tqdm import tqdm

from octavo._core import Endpoint, Frontend, Tokenizer
from octavo.collect import Collector
from octavo.config import (
    DTYPE_SPELLINGS,
    KV_CACHE_DTYPE_SPELLINGS,
    CacheConfig,
    Device,
    DeviceConfig,
    Dtype,
    EngineConfig,
    Executor,
    KvCacheDtype,
    LoadFormat,
    ModelConfig,
    ParallelConfig,
    Quantization,
    SchedulerConfig,
    SchedulingPolicy,
)
from octavo.engine.build import build_engine
from octavo.engine.loop import EngineLoop
from octavo.engine.start import prepare
from octavo.inputs import Input, Prompt, TextPrompt, TokensPrompt, parse_prompts
from octavo.outputs import RequestOutput
from octavo.sampling import SamplingParams

__all__ = ["LLM", "TextPrompt", "TokensPrompt"]

Message = Mapping[str, Any]

Progress = bool | Callable[..., Any]
"""Whether to show a bar, or what makes one in place of tqdm."""

T = TypeVar("T")

UNBOUNDED_QUEUE = 2**31 - 1
"""Nobody else waits here: every prompt of a call is admitted."""

ACCEPTED_WITHOUT_EFFECT: Mapping[str, Any] = {
    "tokenizer_mode": ("auto", "hf", "fast"),
    "disable_log_stats": (True, False),
    "swap_space": (0, 4),
    "cpu_offload_gb": (0,),
    "skip_tokenizer_init": (False,),
    "runner": ("auto", "generate"),
    "task": ("auto", "generate"),
}
"""Arguments of vLLM's `LLM`, with the values that ask for what octavo does anyway."""


class LLM:
    """A model in this process. Use it from one thread at a time.

    The arguments are vLLM's. TypeError for an unknown one, ValueError for one that octavo does not do yet, ModelError
    (with one line to show) for a model that cannot be used.
    """

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        pipeline_parallel_size: int = 1,
        dtype: Dtype = "auto",
        quantization: Quantization | None = None,
        revision: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        kv_cache_memory_bytes: int | None = None,
        num_gpu_blocks_override: int | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int | None = None,
        max_logprobs: int = 20,
        block_size: int = 16,
        kv_cache_dtype: KvCacheDtype = "auto",
        enable_prefix_caching: bool = True,
        enable_chunked_prefill: bool = True,
        long_prefill_token_threshold: int = 0,
        scheduling_policy: SchedulingPolicy = "fcfs",
        enforce_eager: bool = False,
        load_format: LoadFormat = "auto",
        device: Device = "auto",
        executor: Executor = "auto",
        cpu_threads: int | None = None,
        chat_template: str | None = None,
        **others: Any,
    ) -> None:
        _refuse(others)
        config = EngineConfig(
            model=ModelConfig(
                model=model,
                tokenizer=tokenizer,
                revision=revision,
                dtype=cast(Dtype, DTYPE_SPELLINGS.get(dtype, dtype)),
                quantization=quantization,
                max_model_len=max_model_len,
                load_format=load_format,
                trust_remote_code=trust_remote_code,
                seed=seed,
            ),
            cache=CacheConfig(
                block_size=block_size,
                cache_dtype=cast(KvCacheDtype, KV_CACHE_DTYPE_SPELLINGS.get(kv_cache_dtype, kv_cache_dtype)),
                enable_prefix_caching=enable_prefix_caching,
                gpu_memory_utilization=gpu_memory_utilization,
                kv_cache_memory_bytes=kv_cache_memory_bytes,
                num_gpu_blocks_override=num_gpu_blocks_override,
            ),
            scheduler=SchedulerConfig(
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                enable_chunked_prefill=enable_chunked_prefill,
                policy=scheduling_policy,
                max_num_queued_reqs=UNBOUNDED_QUEUE,
                long_prefill_token_threshold=long_prefill_token_threshold,
                max_logprobs=max_logprobs,
            ),
            device=DeviceConfig(device=device, executor=executor, cpu_threads=cpu_threads, enforce_eager=enforce_eager),
            parallel=ParallelConfig(
                tensor_parallel_size=tensor_parallel_size, pipeline_parallel_size=pipeline_parallel_size
            ),
        )
        self._open(config, chat_template)

    @classmethod
    def from_config(cls, config: EngineConfig) -> Self:
        """From octavo's own configuration; the null backend is reached so."""
        llm = cls.__new__(cls)
        llm._open(config, None)
        return llm

    def _open(self, config: EngineConfig, chat_template: str | None) -> None:
        prepared = prepare(config)
        self.config = config
        self._checkpoint = prepared.checkpoint
        self._generation_config = prepared.generation_config
        self._chat_template = chat_template
        self._tokenizer = None if prepared.checkpoint is None else prepared.checkpoint.tokenizer()
        front, back = Endpoint.pair()
        self._engine, self._backend = build_engine(prepared.start, back)
        self._loop = EngineLoop(self._engine, self._backend)
        self._frontend = Frontend(
            front,
            self._tokenizer,
            max_model_len=prepared.start.memory.max_model_len,
            vocab_size=prepared.start.vocab_size,
        )

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: Progress = True,
        lora_request: None = None,
        priority: Sequence[int] | None = None,
        tokenization_kwargs: None = None,
    ) -> list[RequestOutput]:
        """The finished outputs, in the order of the prompts.

        `sampling_params` is one for all, or one for each prompt; None takes the model's defaults. ValueError for a
        prompt or a parameter that cannot be served: nothing of the call runs on then, and the next call may follow.
        """
        for name, value in (("lora_request", lora_request), ("tokenization_kwargs", tokenization_kwargs)):
            if value is not None:
                raise ValueError(f"{name}: octavo does not do this yet")
        return self._run(parse_prompts(prompts), sampling_params, priority, use_tqdm, add_special_tokens=True)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: Progress = True,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """As `generate`, for one conversation or a list of them, through the model's chat template."""
        # jinja2 and aiohttp (by the server's errors) are of no use to those who never chat.
        from octavo.server.errors import ApiError
        from octavo.server.messages import check_messages
        from octavo.server.template import ChatTemplate

        conversations = [messages] if messages and isinstance(messages[0], Mapping) else messages
        template = ChatTemplate(*self._template(chat_template))
        inputs = []
        for conversation in cast(Sequence[Sequence[Message]], conversations):
            try:
                checked = check_messages([dict(message) for message in conversation])
            except ApiError as error:
                raise ValueError(error.message) from None
            text = template.render(
                checked,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **(chat_template_kwargs or {}),
            )
            inputs.append(Input(text, None))
        return self._run(inputs, sampling_params, priority, use_tqdm, add_special_tokens=False)

    def get_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise ValueError("there is no tokenizer without a model")
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """vLLM's defaults under those of the model's generation_config.json."""
        return SamplingParams.from_defaults(self._generation_config)

    def reset_prefix_cache(self) -> bool:
        """Forgets every cached prefix, before the next prompt."""
        self._frontend.reset_prefix_cache()
        return True

    def shutdown(self) -> None:
        """Frees the model and its memory; the object cannot be used afterwards."""
        for name in ("_frontend", "_backend", "_engine"):
            self.__dict__.pop(name, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def _template(self, chat_template: str | None) -> tuple[str, Mapping[str, str]]:
        """The template's text, and the special tokens that it may name."""
        if self._checkpoint is None:
            raise ValueError("there is no chat template without a model")
        template = chat_template or self._chat_template or self._checkpoint.chat_template
        if template is None:
            raise ValueError("chat_template: the model has none; give one")
        return template, self._checkpoint.special_tokens

    def _run(
        self,
        inputs: list[Input],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: Sequence[int] | None,
        use_tqdm: Progress,
        *,
        add_special_tokens: bool,
    ) -> list[RequestOutput]:
        given = self.get_default_sampling_params() if sampling_params is None else sampling_params
        params = _one_each("sampling_params", given, len(inputs))
        priorities = _one_each("priority", 0 if priority is None else priority, len(inputs))
        if any(priorities) and self.config.scheduler.policy != "priority":
            raise ValueError("priority: has an effect with scheduling_policy='priority' only")
        samplings = [each.to_core() for each in params]
        bar = use_tqdm if callable(use_tqdm) else tqdm
        collector = Collector(self._tokenizer)
        try:
            for item, parameters, sampling, rank in zip(inputs, params, samplings, priorities, strict=True):
                request = self._frontend.submit(
                    item.prompt,
                    sampling,
                    add_special_tokens=add_special_tokens,
                    clamp_max_tokens=True,
                    priority=rank,
                    cache_salt=item.cache_salt,
                )
                collector.open(request, item.text, parameters.n)
            with bar(
                total=len(inputs), desc="Generating", unit="req", disable=not use_tqdm, dynamic_ncols=True
            ) as shown:
                for done in self._turns(collector):
                    if collector.failure is not None:
                        raise collector.failure
                    shown.set_postfix_str(collector.speed(), refresh=False)
                    shown.update(done)
        except BaseException:
            # Ctrl-C, or one bad prompt: nothing of this call may run on under the next.
            for request in collector.pending:
                self._frontend.abort(request)
            for _ in self._turns(collector):
                pass
            raise
        return collector.results()

    def _turns(self, collector: Collector) -> Iterator[int]:
        """Turns the engine until every pending request has ended; yields the number of those that newly have."""
        while collector.pending:
            events = self._frontend.drain()
            if events:
                yield sum(collector.take(event) for event in events)
            if collector.pending and not self._loop.turn(timeout=0.0):
                # Prompts are still being tokenized, or the last tokens turned into text.
                self._frontend.wait(0.01)


def _one_each(name: str, given: T | Sequence[T], count: int) -> Sequence[T]:
    """`given` for each of `count` prompts, or one after the other when it is a list."""
    if not isinstance(given, Sequence):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"{name}: {len(given)} for {count} prompts")
    return given


def _refuse(others: Mapping[str, Any]) -> None:
    known = [name for name in inspect.signature(LLM.__init__).parameters if name not in ("self", "others")]
    for name, value in others.items():
        if name in ACCEPTED_WITHOUT_EFFECT:
            if value not in ACCEPTED_WITHOUT_EFFECT[name]:
                raise ValueError(f"{name}={value!r}: octavo does not do this yet")
            continue
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise TypeError(f"LLM: unknown argument {name}, or one that octavo does not have yet{hint}")
