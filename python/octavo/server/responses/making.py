"""One response under way: the engine's events go in, the API's events or the whole answer come out."""

import time
from collections.abc import Callable

import msgspec
from msgspec import UNSET

from octavo._core import Accepted, Delta
from octavo.server.conversation import Conversation
from octavo.server.engine_client import Event
from octavo.server.errors import ApiError
from octavo.server.logprobs import LogprobFormatter
from octavo.server.protocol import ChatLogprob, Usage
from octavo.server.responses.output import Events, Output, Silence, begin, end
from octavo.server.responses.protocol import (
    IncompleteDetails,
    InputTokensDetails,
    OutputTokensDetails,
    PlainText,
    ReasoningOptions,
    Response,
    ResponseError,
    ResponsesRequest,
    ResponseUsage,
    TextOptions,
)


class Making:
    """`done` gets the finished response, before the client hears of its end."""

    def __init__(
        self,
        asked: ResponsesRequest,
        conversation: Conversation,
        *,
        stored: bool,
        done: Callable[[Response], None],
    ) -> None:
        self.answer = conversation.answer
        self._conversation = conversation
        self._done = done
        self._events = Events() if asked.stream else Silence()
        service = self.answer.service
        self._logprobs: LogprobFormatter | None = None
        if "message.output_text.logprobs" in asked.include:
            self._logprobs = LogprobFormatter(
                service.texts, asked.top_logprobs, as_token_ids=service.tokens_as_ids(None)
            )
        self._pending: list[ChatLogprob] = []
        self._output = Output(
            self.answer.id,
            self._events,
            logprobs=self._logprobs is not None,
            sealed="reasoning.encrypted_content" in asked.include,
        )
        self._finish_reason: str | None = None
        defaults = service.sampling.defaults
        self.response = Response(
            id=self.answer.id,
            created_at=self.answer.created,
            model=self.answer.model,
            instructions=asked.instructions,
            metadata=asked.metadata,
            parallel_tool_calls=asked.parallel_tool_calls,
            temperature=defaults.temperature if asked.temperature is None else asked.temperature,
            top_p=defaults.top_p if asked.top_p is None else asked.top_p,
            tool_choice="auto" if asked.tool_choice is UNSET else asked.tool_choice,
            tools=asked.tools,
            background=asked.background,
            max_output_tokens=asked.max_output_tokens,
            previous_response_id=asked.previous_response_id,
            reasoning=asked.reasoning or ReasoningOptions(),
            store=stored,
            text=asked.text if asked.text and asked.text.format else TextOptions(format=PlainText()),
            top_logprobs=asked.top_logprobs,
            presence_penalty=asked.presence_penalty or 0.0,
            frequency_penalty=asked.frequency_penalty or 0.0,
            user=asked.user,
            safety_identifier=asked.safety_identifier,
            prompt_cache_key=asked.prompt_cache_key,
        )

    async def whole(self) -> Response:
        """Waits for the end. Raises ApiError when the engine refuses or loses the request."""
        while not self.answer.stream.done:
            for event in await self.answer.stream.next():
                self._take(event)
        self._finish()
        self.answer.log_end("answered")
        return self.response

    def encode(self, events: list[Event], out: list[bytes]) -> None:
        for event in events:
            self._take(event)
        out += self._told()

    def end(self) -> list[bytes]:
        self._finish()
        return self._told()

    def error(self, error: ApiError) -> list[bytes]:
        self.fail(error.message)
        end(self._events, self.response)
        return self._told()

    def fail(self, message: str) -> None:
        self._output.finish(cut=True)
        self.response = msgspec.structs.replace(
            self.response, status="failed", error=ResponseError(message), output=self._output.items
        )
        self._done(self.response)

    def _told(self) -> list[bytes]:
        out, self._events.out = self._events.out, []
        return out

    def _take(self, event: Event) -> None:
        if isinstance(event, Delta):
            news = self._conversation.take(event)
            if self._logprobs is not None and event.num_tokens:
                self._pending += self._logprobs.chat(0, event).content
            if news.parts:
                self._output.add(news.parts, self._pending)
                self._pending = []
            if news.finish_reason is not None:
                self._finish_reason = news.finish_reason
        elif isinstance(event, Accepted):
            self.answer.accept(event, keep_ids=False)
            begin(self._events, self.response)
        else:
            raise self.answer.fail(event)

    def _finish(self) -> None:
        reason = self._finish_reason
        if reason == "abort":
            raise ApiError(500, "The server ended this answer before it was complete.")
        cut = reason == "length"
        self._output.finish(cut=cut)
        self.response = msgspec.structs.replace(
            self.response,
            status="incomplete" if cut else "completed",
            incomplete_details=IncompleteDetails("max_output_tokens") if cut else None,
            completed_at=None if cut else int(time.time()),
            output=self._output.items,
            usage=usage_of(self.answer.usage()),
            metrics=self.answer.metrics(),
        )
        self._done(self.response)
        end(self._events, self.response)


def usage_of(usage: Usage) -> ResponseUsage:
    """Chat's usage in this API's names."""
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(prompt.cached_tokens if prompt else 0),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(completion.reasoning_tokens if completion else 0),
        total_tokens=usage.total_tokens,
    )
