"""POST /v1/chat/completions."""

import msgspec
from aiohttp import web

from octavo.server.answer import Answer
from octavo.server.body import read_object
from octavo.server.chunks import ChunkEncoder
from octavo.server.fields import chat_request
from octavo.server.logprobs import LogprobFormatter, join_chat
from octavo.server.messages import check_message, joined_text, render
from octavo.server.protocol import ChatChoice, ChatMessage, ChatRequest, ChatResponse
from octavo.server.request_id import request_id
from octavo.server.service import SERVICE
from octavo.server.stream import StreamForm, check_options, send
from octavo.server.whole import ChoiceResult, collect


async def post_chat_completion(request: web.Request) -> web.StreamResponse:
    """Answers a conversation, whole or streamed."""
    service = request.app[SERVICE]
    service.health.check_serving()
    chat = chat_request(await read_object(request))
    model = service.model_name(chat.model)
    service.check_priority(chat.priority)
    options = check_options(chat.stream, chat.stream_options)
    resolved = service.sampling.chat(chat)
    prompt = await render(
        service,
        chat.messages,
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
        kwargs=chat.chat_template_kwargs,
    )
    identity = f"chatcmpl-{request_id(request, chat.request_id)}"
    with service.client.open() as stream:
        answer = Answer(service, stream, id=identity, model=model, n=chat.n)
        answer.submit(
            prompt,
            resolved,
            add_special_tokens=chat.add_special_tokens,
            priority=chat.priority,
            cache_salt=chat.cache_salt,
        )
        answer.log_start("chat", request.remote)
        logprobs = None
        if chat.logprobs:
            formatter = LogprobFormatter(service.texts, chat.top_logprobs, as_token_ids=chat.return_tokens_as_token_ids)
            logprobs = formatter.chat
        form = ChatForm(chat, answer)
        if chat.stream:
            wanted = StreamForm(options, token_ids=chat.return_token_ids, logprobs=logprobs, opening=form.opening)
            return await send(request, answer, form.chunks, wanted)
        results = await collect(answer, keep_token_ids=chat.return_token_ids, logprobs=logprobs)
        return web.Response(body=msgspec.json.encode(form.whole(results)), content_type="application/json")


class ChatForm:
    """The shape of chat's answers."""

    def __init__(self, chat: ChatRequest, answer: Answer) -> None:
        self.chat = chat
        self.answer = answer
        last = chat.messages[-1]
        goes_on = chat.continue_final_message or chat.add_generation_prompt is False
        self.role = last["role"] if goes_on else "assistant"
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

    def whole(self, results: list[ChoiceResult]) -> ChatResponse:
        chat, answer = self.chat, self.answer
        return ChatResponse(
            id=answer.id,
            created=answer.created,
            model=answer.model,
            choices=[
                ChatChoice(
                    index=index,
                    message=ChatMessage(role=self.role, content=self.echo + result.text),
                    logprobs=join_chat(result.logprobs) if chat.logprobs else None,
                    finish_reason=result.finish_reason,
                    stop_reason=result.stop_reason,
                    token_ids=result.token_ids if chat.return_token_ids else None,
                )
                for index, result in enumerate(results)
            ],
            usage=answer.usage(),
            prompt_token_ids=answer.prompt_ids.get(0),
        )
