"""POST /v1/messages and /v1/messages/count_tokens."""

from aiohttp import web

from octavo.server.anthropic.making import Making
from octavo.server.anthropic.protocol import CountAnswer, CountRequest, MessagesAnswer, MessagesRequest
from octavo.server.anthropic.request import COUNT, MESSAGES, NAMES, count_request, messages_request, to_chat
from octavo.server.body import read_object
from octavo.server.conversation import Conversation, prompt_of
from octavo.server.errors import ErrorShape
from octavo.server.request_id import request_id
from octavo.server.route import Route
from octavo.server.service import SERVICE
from octavo.server.stream import send
from octavo.server.tokenize import encode
from octavo.server.whole import json_answer


async def post_message(request: web.Request) -> web.StreamResponse:
    """Answers a conversation in Anthropic's form, whole or streamed."""
    service = request.app[SERVICE]
    service.health.check_serving()
    asked = messages_request(await read_object(request))
    model = service.model_name(asked.model)
    chat = to_chat(asked)
    identity = f"msg_{request_id(request, None)}"
    with NAMES.of_client(), service.open_stream(None) as stream:
        # Clients ask for more than there is room for; an answer says when it ended for that (Making).
        conversation = await Conversation.start(service, chat, stream, id=identity, model=model, clamp_max_tokens=True)
        making = Making(conversation, asked.max_tokens, streamed=asked.stream)
        making.answer.log_start("message", request.remote)
        if asked.stream:
            return await send(request, making.answer, making)
        return json_answer(await making.whole())


async def post_count(request: web.Request) -> web.Response:
    """How many tokens the prompt of a conversation in Anthropic's form has."""
    service = request.app[SERVICE]
    asked = count_request(await read_object(request))
    service.model_name(asked.model)
    chat = to_chat(asked)
    with NAMES.of_client():
        text = await prompt_of(service, chat)
    tokens = await encode(service.need_tokenizer(), text, chat.add_special_tokens)
    return json_answer(CountAnswer(len(tokens)))


MESSAGES_ROUTES = (
    Route(
        "POST",
        "/v1/messages",
        post_message,
        errors=ErrorShape.ANTHROPIC,
        request=MessagesRequest,
        fields=MESSAGES,
        answer=MessagesAnswer,
        events=True,
    ),
    Route(
        "POST",
        "/v1/messages/count_tokens",
        post_count,
        errors=ErrorShape.ANTHROPIC,
        request=CountRequest,
        fields=COUNT,
        answer=CountAnswer,
    ),
)
