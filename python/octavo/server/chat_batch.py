"""POST /v1/chat/completions/batch: several conversations in one request, answered together.

Each is a chat of its own with the request's other fields; choices are numbered conversation * n + choice.
"""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from octavo.server.body import convert, read_object
from octavo.server.chat import answer_whole
from octavo.server.completions import MAX_CHOICES, MAX_PROMPTS
from octavo.server.errors import ApiError
from octavo.server.field_names import FieldNames
from octavo.server.fields import CHAT, chat_request
from octavo.server.protocol import (
    ChatRequest,
    ChatResponse,
    CompletionTokensDetails,
    PromptTokensDetails,
    Usage,
)
from octavo.server.request_id import request_id
from octavo.server.route import Route
from octavo.server.service import SERVICE
from octavo.server.whole import json_answer

ChatBatchRequest = msgspec.defstruct(
    "ChatBatchRequest", [("messages", list[list[dict[str, Any]]])], bases=(ChatRequest,), frozen=True, kw_only=True
)
"""A chat request with a list of conversations for its messages."""


class Conversations(msgspec.Struct):
    messages: list[list[dict[str, Any]]]


async def post_chat_batch(request: web.Request) -> web.Response:
    """Answers several conversations. One that is refused refuses them all."""
    service = request.app[SERVICE]
    service.health.check_serving()
    chats = batch_request(await read_object(request))
    model = service.model_name(chats[0].model)
    identity = f"chatcmpl-{request_id(request, chats[0].request_id)}"

    async def answer(index: int, chat: ChatRequest) -> ChatResponse:
        with FieldNames({"messages": f"messages[{index}]"}).of_client():
            return await answer_whole(service, chat, id=f"{identity}-{index}", model=model, peer=request.remote)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(index, chat)) for index, chat in enumerate(chats)]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return json_answer(joined(identity, [task.result() for task in tasks]))


def batch_request(body: dict[str, Any]) -> list[ChatRequest]:
    """A chat for each conversation. Raises ApiError 400 that names the field."""
    conversations = convert({"messages": body.get("messages")}, Conversations).messages
    if not 1 <= len(conversations) <= MAX_PROMPTS:
        raise ApiError(400, f"messages: 1 to {MAX_PROMPTS} conversations, not {len(conversations)}.", "messages")
    chat = chat_request({**body, "messages": conversations[0]})
    if chat.stream:
        raise ApiError(400, "stream: several conversations are not streamed.", "stream")
    if len(conversations) * chat.n > MAX_CHOICES:
        raise ApiError(400, f"n: conversations times n may be {MAX_CHOICES} at most.", "n")
    return [msgspec.structs.replace(chat, messages=messages) for messages in conversations]


def joined(id: str, answers: list[ChatResponse]) -> ChatResponse:
    """All answers as one."""
    choices = [choice for answer in answers for choice in answer.choices]
    for index, choice in enumerate(choices):
        choice.index = index
    usages = [answer.usage for answer in answers]
    prompt_tokens = sum(usage.prompt_tokens for usage in usages)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    cached = sum(usage.prompt_tokens_details.cached_tokens for usage in usages if usage.prompt_tokens_details)
    thoughts = [usage.completion_tokens_details for usage in usages if usage.completion_tokens_details]
    usage = Usage(prompt_tokens, prompt_tokens + completion_tokens, completion_tokens, PromptTokensDetails(cached))
    if thoughts:
        usage.completion_tokens_details = CompletionTokensDetails(sum(each.reasoning_tokens for each in thoughts))
    return msgspec.structs.replace(
        answers[0],
        id=id,
        choices=choices,
        usage=usage,
        prompt_token_ids=None,
    )


CHAT_BATCH_ROUTES = (
    Route(
        "POST",
        "/v1/chat/completions/batch",
        post_chat_batch,
        request=ChatBatchRequest,
        fields=CHAT,
        answer=ChatResponse,
    ),
)
