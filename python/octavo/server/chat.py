"""POST /v1/chat/completions."""

from collections.abc import Callable

from aiohttp import web

from octavo._core import Delta
from octavo.server.answer import Answer
from octavo.server.body import read_object
from octavo.server.chunks import ChunkEncoder
from octavo.server.conversation import ChoiceMessage, Conversation
from octavo.server.fields import chat_request
from octavo.server.logprobs import LogprobFormatter, join_chat
from octavo.server.messages import check_message, joined_text
from octavo.server.protocol import ChatChoice, ChatLogprobs, ChatMessage, ChatRequest, ChatResponse
from octavo.server.request_id import request_id
from octavo.server.service import SERVICE, Service
from octavo.server.stream import ChunkStream, check_options, send
from octavo.server.whole import json_answer


async def post_chat_completion(request: web.Request) -> web.StreamResponse:
    """Answers a conversation, whole or streamed."""
    service = request.app[SERVICE]
    service.health.check_serving()
    chat = chat_request(await read_object(request))
    model = service.model_name(chat.model)
    options = check_options(service, chat.stream, chat.stream_options)
    identity = f"chatcmpl-{request_id(request, chat.request_id)}"
    if not chat.stream:
        return json_answer(await answer_whole(service, chat, id=identity, model=model, peer=request.remote))
    with service.open_stream(chat.timeout) as stream:
        conversation = await Conversation.start(service, chat, stream, id=identity, model=model)
        answer = conversation.answer
        answer.log_start("chat", request.remote)
        form = ChatForm(chat, answer)
        encoder = ChunkStream(
            answer,
            form.chunks,
            options,
            token_ids=chat.return_token_ids,
            logprobs=logprobs_of(service, chat),
            opening=form.opening,
        )
        return await send(request, answer, encoder)


async def answer_whole(service: Service, chat: ChatRequest, *, id: str, model: str, peer: str | None) -> ChatResponse:
    """One conversation's answer in one piece. Raises ApiError."""
    with service.open_stream(chat.timeout) as stream:
        conversation = await Conversation.start(service, chat, stream, id=id, model=model)
        conversation.answer.log_start("chat", peer)
        messages = await conversation.collect(keep_token_ids=chat.return_token_ids, logprobs=logprobs_of(service, chat))
        return ChatForm(chat, conversation.answer).whole(messages)


def logprobs_of(service: Service, chat: ChatRequest) -> Callable[[int, Delta], ChatLogprobs] | None:
    """What makes the log-probabilities of a delta, where the request asks for them."""
    if not chat.logprobs:
        return None
    as_token_ids = service.tokens_as_ids(chat.return_tokens_as_token_ids)
    return LogprobFormatter(service.texts, chat.top_logprobs, as_token_ids=as_token_ids).chat


class ChatForm:
    """The shape of chat's answers."""

    def __init__(self, chat: ChatRequest, answer: Answer) -> None:
        self.chat = chat
        self.answer = answer
        last = chat.messages[-1]
        goes_on = chat.continue_final_message or chat.add_generation_prompt is False
        self.role = last["role"] if goes_on else answer.service.config.response_role
        self.echo = ""
        if chat.echo and last["role"] == self.role:
            self.echo = joined_text(check_message("messages", last))
        self.chunks = ChunkEncoder(
            id=answer.id,
            object="chat.completion.chunk",
            created=answer.created,
            model=answer.model,
            num_choices=chat.n,
            before=b',"delta":{"content":',
            after=b"}",
        )

    def opening(self, prompt: int) -> list[bytes]:
        """The role of each choice, and what it echoes."""
        prompt_ids = self.answer.prompt_ids.get(prompt)
        out = []
        for choice in range(self.chat.n):
            out.append(self.chunks.role(choice, self.role, prompt_token_ids=prompt_ids if choice == 0 else None))
            if self.echo:
                out.append(self.chunks.text(choice, self.echo))
        return out

    def whole(self, messages: list[ChoiceMessage]) -> ChatResponse:
        chat, answer = self.chat, self.answer
        return ChatResponse(
            id=answer.id,
            created=answer.created,
            model=answer.model,
            choices=[
                ChatChoice(
                    index=index,
                    message=ChatMessage(role=self.role, content=self.echo + message.content),
                    logprobs=join_chat(message.logprobs) if chat.logprobs else None,
                    finish_reason=message.finish_reason,
                    stop_reason=message.stop_reason,
                    token_ids=message.token_ids if chat.return_token_ids else None,
                )
                for index, message in enumerate(messages)
            ],
            usage=answer.usage(),
            metrics=answer.metrics(),
            prompt_token_ids=answer.prompt_ids.get(0),
        )
