"""POST /tokenize and /detokenize."""

import asyncio

import msgspec
from aiohttp import web
from msgspec import UNSET

from octavo._core import Tokenizer
from octavo.server.body import LARGE_BODY, read_object
from octavo.server.errors import ApiError
from octavo.server.fields import detokenize_request, tokenize_request
from octavo.server.messages import render
from octavo.server.protocol import DetokenizeResponse, TokenizeResponse
from octavo.server.service import SERVICE
from octavo.server.tools.definitions import check_tools


async def post_tokenize(request: web.Request) -> web.Response:
    """The token ids of a prompt, or of messages through the chat template."""
    service = request.app[SERVICE]
    wanted = tokenize_request(await read_object(request))
    service.model_name(wanted.model)
    tokenizer = service.need_tokenizer()
    if wanted.messages is not UNSET and wanted.prompt is not UNSET:
        raise ApiError(400, "prompt: cannot be combined with messages.", "prompt")
    if wanted.messages is not UNSET:
        text = await render(
            service,
            wanted.messages,
            add_generation_prompt=wanted.add_generation_prompt,
            continue_final_message=wanted.continue_final_message,
            kwargs=wanted.chat_template_kwargs,
            tools=[tool.definition for tool in check_tools(wanted.tools)] or None,
            chat_template=wanted.chat_template,
        )
        special = False
    elif wanted.prompt is not UNSET:
        text, special = wanted.prompt, True
    else:
        raise ApiError(400, "prompt: neither prompt nor messages is there.", "prompt")
    if wanted.add_special_tokens is not UNSET:
        special = wanted.add_special_tokens
    tokens = await encode(tokenizer, text, special)
    strings = [tokenizer.token(token) or "" for token in tokens] if wanted.return_token_strs else None
    return answer(TokenizeResponse(len(tokens), service.max_model_len, tokens, strings))


async def encode(tokenizer: Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    if len(text) >= LARGE_BODY:
        return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens)
    return tokenizer.encode(text, add_special_tokens)


async def post_detokenize(request: web.Request) -> web.Response:
    """The text of token ids, special tokens included."""
    service = request.app[SERVICE]
    wanted = detokenize_request(await read_object(request))
    service.model_name(wanted.model)
    tokenizer = service.need_tokenizer()
    tokens = service.sampling.token_ids("tokens", wanted.tokens)
    try:
        text = await asyncio.to_thread(tokenizer.decode, tokens, False)
    except ValueError as error:
        raise ApiError(400, f"tokens: {error}", "tokens") from None
    return answer(DetokenizeResponse(text))


def answer(body: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
