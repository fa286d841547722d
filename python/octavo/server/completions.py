"""POST /v1/completions: one prompt or several, each with n choices, numbered prompt * n + choice."""

from typing import Any

import msgspec
from aiohttp import web

from octavo.server.answer import Answer
from octavo.server.body import read_object
from octavo.server.chunks import ChunkEncoder
from octavo.server.errors import ApiError
from octavo.server.fields import completion_request
from octavo.server.logprobs import LogprobFormatter, join_completion
from octavo.server.protocol import CompletionChoice, CompletionLogprobs, CompletionRequest, CompletionResponse
from octavo.server.request_id import request_id
from octavo.server.sampling import num_listed
from octavo.server.service import SERVICE, Service
from octavo.server.stream import ChunkStream, check_options, send
from octavo.server.whole import ChoiceResult, collect

MAX_PROMPTS = 256
MAX_CHOICES = 1024
"""Prompts times n, in one request."""

Prompt = str | list[int]


async def post_completion(request: web.Request) -> web.StreamResponse:
    """Goes on from each prompt, whole or streamed."""
    service = request.app[SERVICE]
    service.health.check_serving()
    completion = completion_request(await read_object(request))
    model = service.model_name(completion.model)
    service.check_priority(completion.priority)
    options = check_options(service, completion.stream, completion.stream_options)
    prompts = check_prompts(completion.prompt, service.vocab_size)
    resolved = service.sampling.completion(completion)
    if len(prompts) * completion.n > MAX_CHOICES:
        raise ApiError(400, f"n: prompts times n may be {MAX_CHOICES} at most.", "n")
    if service.tokenizer is None and any(isinstance(prompt, str) for prompt in prompts):
        raise ApiError(400, "prompt: this model has no tokenizer; send token ids.", "prompt")
    if completion.echo and completion.truncate_prompt_tokens is not None:
        raise ApiError(400, "echo: cannot be combined with truncate_prompt_tokens, which shortens the prompt.", "echo")
    echoes = [echo_text(service, prompt) for prompt in prompts] if completion.echo else [""] * len(prompts)
    identity = f"cmpl-{request_id(request, completion.request_id)}"
    with service.open_stream(completion.timeout) as stream:
        answer = Answer(service, stream, id=identity, model=model, n=completion.n)
        for prompt in prompts:
            answer.submit(
                prompt,
                resolved,
                add_special_tokens=completion.add_special_tokens,
                priority=completion.priority,
                cache_salt=completion.cache_salt,
            )
        answer.log_start("completion", request.remote)
        formatter, logprobs, count = None, None, num_listed(completion)
        if count is not None:
            as_token_ids = service.tokens_as_ids(completion.return_tokens_as_token_ids)
            formatter = LogprobFormatter(service.texts, count, as_token_ids=as_token_ids)
            logprobs = formatter.completion
        form = CompletionForm(completion, answer, echoes, formatter)
        if completion.stream:
            encoder = ChunkStream(
                answer,
                form.chunks,
                options,
                token_ids=completion.return_token_ids,
                logprobs=logprobs,
                opening=form.opening,
            )
            return await send(request, answer, encoder)
        results = await collect(answer, keep_token_ids=completion.return_token_ids, logprobs=logprobs)
        return web.Response(body=msgspec.json.encode(form.whole(results)), content_type="application/json")


class CompletionForm:
    """The shape of a completion's answers. `echoes`: for each prompt the text that goes before its choices' own."""

    def __init__(
        self, completion: CompletionRequest, answer: Answer, echoes: list[str], formatter: LogprobFormatter | None
    ) -> None:
        self.completion = completion
        self.answer = answer
        self.echoes = echoes
        self.formatter = formatter
        if formatter is not None:
            for choice in range(answer.num_prompts * answer.n):
                formatter.start(choice, len(echoes[choice // answer.n]))
        self.chunks = ChunkEncoder(
            id=answer.id,
            object="text_completion",
            created=answer.created,
            model=answer.model,
            num_choices=answer.num_prompts * answer.n,
            before=b',"text":',
            after=b"",
        )

    def opening(self, prompt: int) -> list[bytes]:
        """What a choice echoes, and the ids of its prompt, when the client asked for them."""
        echo, ids, n = self.echoes[prompt], self.answer.prompt_ids.get(prompt), self.answer.n
        if not echo and ids is None:
            return []
        return [self.chunks.full(choice, echo, prompt_token_ids=ids) for choice in range(prompt * n, (prompt + 1) * n)]

    def whole(self, results: list[ChoiceResult]) -> CompletionResponse:
        completion, answer = self.completion, self.answer
        return CompletionResponse(
            id=answer.id,
            created=answer.created,
            model=answer.model,
            choices=[
                CompletionChoice(
                    index=index,
                    text=self.echoes[index // answer.n] + result.text,
                    logprobs=self.logprobs(index // answer.n, result),
                    finish_reason=result.finish_reason,
                    stop_reason=result.stop_reason,
                    token_ids=result.token_ids if completion.return_token_ids else None,
                    prompt_token_ids=answer.prompt_ids.get(index // answer.n),
                    prompt_logprobs=answer.prompt_logprobs(index // answer.n, completion.prompt_logprobs),
                )
                for index, result in enumerate(results)
            ],
            usage=answer.usage(),
            metrics=answer.metrics(),
        )

    def logprobs(self, prompt: int, result: ChoiceResult) -> CompletionLogprobs | None:
        """The arrays of one choice, with those of its prompt in front when that is echoed."""
        if self.formatter is None:
            return None
        scores = self.answer.scores.get(prompt)
        if scores is None or not self.completion.echo:
            return join_completion(result.logprobs)
        return join_completion([self.formatter.echo(*scores, self.echoes[prompt]), *result.logprobs])


def check_prompts(prompt: Any, vocab_size: int, *, name: str = "prompt", limit: int = MAX_PROMPTS) -> list[Prompt]:
    """The prompts of a request, in order. Raises ApiError 400 that names the field."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list):
        raise refused(name, "must be a string, a list of strings, token ids, or a list of lists of token ids")
    if not prompt:
        raise refused(name, "must not be empty")
    if not isinstance(prompt[0], str | list):
        return [check_ids(prompt, vocab_size, name)]
    if len(prompt) > limit:
        raise refused(name, f"at most {limit} prompts, not {len(prompt)}")
    if isinstance(prompt[0], str):
        if not all(isinstance(text, str) for text in prompt):
            raise refused(name, "strings and other values cannot be mixed")
        return prompt
    return [check_ids(ids, vocab_size, name) for ids in prompt]


def check_ids(ids: Any, vocab_size: int, name: str) -> list[int]:
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise refused(name, "a list must hold strings only, or token ids (integers) only")
    if not ids:
        raise refused(name, "must not be empty")
    lowest, highest = min(ids), max(ids)
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise refused(name, f"{wrong} is no token id (0 to {vocab_size - 1})")
    return ids


def refused(name: str, message: str) -> ApiError:
    return ApiError(400, f"{name}: {message}.", name)


def echo_text(service: Service, prompt: Prompt) -> str:
    """A prompt as text."""
    if isinstance(prompt, str):
        return prompt
    return service.need_tokenizer().decode(prompt, skip_special_tokens=False)
