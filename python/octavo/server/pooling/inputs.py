"""From a pooling request's fields to prompts, checked and bounded."""

import asyncio
from typing import Any

from msgspec import UNSET

from octavo._core import Tokenizer
from octavo.server.completions import check_prompts
from octavo.server.errors import ApiError
from octavo.server.messages import render
from octavo.server.pooling.protocol import InputFields, PairFields
from octavo.server.service import Service

MAX_INPUTS = 2048
"""In one request; OpenAI's limit."""

Prompt = str | list[int] | tuple[str, str]


async def prompts_of(service: Service, asked: InputFields) -> tuple[list[Prompt], bool]:
    """The prompts of `input` or `messages`, and whether they get special tokens. Raises ApiError 400."""
    if asked.messages is not UNSET:
        if asked.input is not UNSET:
            raise ApiError(400, "input: cannot be combined with messages.", "input")
        text = await render(
            service,
            asked.messages,
            add_generation_prompt=asked.add_generation_prompt,
            continue_final_message=asked.continue_final_message,
            kwargs=asked.chat_template_kwargs,
        )
        return [text], asked.add_special_tokens is True
    if asked.input is UNSET:
        raise ApiError(400, "input: neither input nor messages is there.", "input")
    prompts = check_prompts(asked.input, service.vocab_size, name="input", limit=MAX_INPUTS)
    need_texts_tokenizer(service, prompts)
    return [*prompts], asked.add_special_tokens is not False


def need_texts_tokenizer(service: Service, prompts: list[str | list[int]]) -> None:
    if service.tokenizer is None and any(isinstance(prompt, str) for prompt in prompts):
        raise ApiError(400, "input: this model has no tokenizer; send token ids.", "input")


def texts_of(name: str, value: Any) -> list[str]:
    """One text or a list of them, each a string or an object with text. Raises ApiError 400."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ApiError(400, f"{name}: must not be empty.", name)
    if len(values) > MAX_INPUTS:
        raise ApiError(400, f"{name}: at most {MAX_INPUTS} texts, not {len(values)}.", name)
    return [text_of(name, each) for each in values]


def text_of(name: str, value: Any) -> str:
    """A string, `{"text": …}`, or `{"content": [parts]}` whose parts are text."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        if isinstance(value.get("text"), str) and not set(value) - {"text", "type"}:
            return str(value["text"])
        parts = value.get("content")
        if isinstance(parts, list) and parts and not set(value) - {"content"}:
            return "\n".join(text_of(name, part) for part in parts)
    raise ApiError(400, f"{name}: a text must be a string, or an object with `text`.", name)


async def cut(
    service: Service, asked: PairFields, queries: list[str], documents: list[str]
) -> tuple[list[str], list[str]]:
    """The texts of a score, each cut to its first tokens as asked."""
    if not asked.max_tokens_per_query and not asked.max_tokens_per_doc:
        return queries, documents
    tokenizer = service.need_tokenizer()
    return await asyncio.to_thread(
        lambda: (
            [first_tokens(tokenizer, text, asked.max_tokens_per_query) for text in queries],
            [first_tokens(tokenizer, text, asked.max_tokens_per_doc) for text in documents],
        )
    )


def first_tokens(tokenizer: Tokenizer, text: str, count: int) -> str:
    """The text of the first `count` tokens; all of it when `count` is 0, or it has no more."""
    if not count:
        return text
    tokens = tokenizer.encode(text, False)
    return text if len(tokens) <= count else tokenizer.decode(tokens[:count], False)
