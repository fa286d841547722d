"""POST /v1/chat/completions."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from octavo._core import Delta
from octavo.server.body import read_object
from octavo.server.chunks import ChunkEncoder, encode
from octavo.server.conversation import ChoiceMessage, Conversation
from octavo.server.fields import chat_request
from octavo.server.logprobs import LogprobFormatter, join_chat
from octavo.server.messages import check_message, joined_text
from octavo.server.parts import Content, Part, Reasoning, ToolCallArguments, ToolCallStart
from octavo.server.protocol import (
    ChatChoice,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    ChatResponse,
    ChatToolCall,
    FunctionCall,
    StreamOptions,
)
from octavo.server.request_id import request_id
from octavo.server.sampling import num_listed
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
        form = ChatForm(conversation)
        encoder = ChatStream(
            form,
            options,
            token_ids=chat.return_token_ids,
            logprobs=logprobs_of(service, chat),
        )
        return await send(request, answer, encoder)


async def answer_whole(service: Service, chat: ChatRequest, *, id: str, model: str, peer: str | None) -> ChatResponse:
    """One conversation's answer in one piece. Raises ApiError."""
    with service.open_stream(chat.timeout) as stream:
        conversation = await Conversation.start(service, chat, stream, id=id, model=model)
        conversation.answer.log_start("chat", peer)
        messages = await conversation.collect(keep_token_ids=chat.return_token_ids, logprobs=logprobs_of(service, chat))
        return ChatForm(conversation).whole(messages)


def logprobs_of(service: Service, chat: ChatRequest) -> Callable[[int, Delta], ChatLogprobs] | None:
    """What makes the log-probabilities of a delta, where the request asks for them."""
    count = num_listed(chat)
    if count is None:
        return None
    as_token_ids = service.tokens_as_ids(chat.return_tokens_as_token_ids)
    return LogprobFormatter(service.texts, count, as_token_ids=as_token_ids).chat


class ChatForm:
    """The shape of chat's answers."""

    def __init__(self, conversation: Conversation) -> None:
        chat, answer = conversation.chat, conversation.answer
        self.conversation = conversation
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
                    message=self.message(message),
                    logprobs=None if num_listed(chat) is None else join_chat(message.logprobs),
                    finish_reason=self.finish_reason(message.finish_reason),
                    stop_reason=message.stop_reason,
                    token_ids=message.token_ids if chat.return_token_ids else None,
                )
                for index, message in enumerate(messages)
            ],
            usage=answer.usage(),
            metrics=answer.metrics(),
            prompt_logprobs=answer.prompt_logprobs(0, chat.prompt_logprobs),
            prompt_token_ids=answer.prompt_ids.get(0),
        )

    def message(self, message: ChoiceMessage) -> ChatMessage:
        calls = [ChatToolCall(call.id, FunctionCall(call.name, call.arguments)) for call in message.tool_calls]
        content = self.echo + message.content
        older = calls[0].function if calls and self.conversation.choice.older else None
        return ChatMessage(
            role=self.role,
            content=content if content or not (calls or message.reasoning) else None,
            function_call=older,
            tool_calls=[] if older is not None else calls,
            reasoning=message.reasoning,
            reasoning_content=message.reasoning,
        )

    def finish_reason(self, reason: str) -> str:
        return "function_call" if reason == "tool_calls" and self.conversation.choice.older else reason

    def delta(self, part: Part) -> dict[str, Any]:
        """A part as the delta of a chunk."""
        match part:
            case Content(text):
                return {"content": text}
            case Reasoning(text):
                return {"reasoning": text, "reasoning_content": text}
            case ToolCallStart(index, id, name):
                call = {"name": name, "arguments": ""}
                if self.conversation.choice.older:
                    return {"function_call": call}
                return {"tool_calls": [{"index": index, "id": id, "type": "function", "function": call}]}
            case ToolCallArguments(index, text):
                piece = {"arguments": text}
                if self.conversation.choice.older:
                    return {"function_call": piece}
                return {"tool_calls": [{"index": index, "function": piece}]}


class ChatStream(ChunkStream):
    """Chat's chunks: one a part where there is markup to read, else as for any text."""

    def __init__(
        self,
        form: ChatForm,
        options: StreamOptions,
        *,
        token_ids: bool,
        logprobs: Callable[[int, Delta], ChatLogprobs] | None,
    ) -> None:
        super().__init__(
            form.answer, form.chunks, options, token_ids=token_ids, logprobs=logprobs, opening=form.opening
        )
        self.form = form
        self.conversation = form.conversation

    def add_delta(self, delta: Delta, out: list[bytes]) -> None:
        if self.conversation.plain:
            super().add_delta(delta, out)
            return
        news = self.conversation.take(delta)
        choice, chunks = news.choice, self.chunks
        bodies = [b',"delta":' + encode(self.form.delta(part)) for part in news.parts]
        last = bodies.pop() if bodies else b',"delta":{}'
        out += [chunks.chunk(choice, body) for body in bodies]
        finish = None
        if news.finish_reason is not None:
            finish = (self.form.finish_reason(news.finish_reason), news.stop_reason)
        if not news.parts and finish is None and self.is_plain:
            return
        out.append(
            chunks.chunk(
                choice,
                last,
                logprobs=self.logprobs(choice, delta) if self.logprobs is not None and delta.num_tokens else None,
                finish=finish,
                token_ids=delta.token_ids if self.token_ids else None,
                usage=self.answer.usage(details=False) if self.continuous_usage else None,
            )
        )
