"""One message under way: the engine's events go in, the API's events or the whole answer come out."""

from octavo._core import Accepted, Delta
from octavo.server.anthropic.output import Output
from octavo.server.anthropic.protocol import MessagesAnswer, MessagesUsage, StopReason, ToolUseBlock
from octavo.server.conversation import Conversation
from octavo.server.engine_client import Event
from octavo.server.errors import ApiError, ErrorShape


class Making:
    """An `EventEncoder` where the answer is streamed."""

    def __init__(self, conversation: Conversation, max_tokens: int, *, streamed: bool) -> None:
        self.answer = conversation.answer
        self._max_tokens = max_tokens
        self._conversation = conversation
        self._output = Output(self.answer.id, streamed=streamed)
        self._reason = "abort"
        self._stop: int | str | None = None

    async def whole(self) -> MessagesAnswer:
        """Waits for the end. Raises ApiError when the engine refuses or loses the request."""
        while not self.answer.stream.done:
            for event in await self.answer.stream.next():
                self._take(event)
        message = self._finish()
        self.answer.log_end("answered")
        return message

    def encode(self, events: list[Event], out: list[bytes]) -> None:
        for event in events:
            self._take(event)
        out += self._told()

    def end(self) -> list[bytes]:
        self._output.end(self._finish())
        return self._told()

    def error(self, error: ApiError) -> list[bytes]:
        return [*self._told(), b"event: error\ndata: ", error.body(ErrorShape.ANTHROPIC), b"\n\n"]

    def _told(self) -> list[bytes]:
        out, self._output.out = self._output.out, []
        return out

    def _take(self, event: Event) -> None:
        if isinstance(event, Delta):
            news = self._conversation.take(event)
            for part in news.parts:
                self._output.add(part)
            if news.finish_reason is not None:
                self._reason, self._stop = news.finish_reason, news.stop_reason
        elif isinstance(event, Accepted):
            self.answer.accept(event, keep_ids=False)
            self._output.begin(self._message())
        else:
            raise self.answer.fail(event)

    def _finish(self) -> MessagesAnswer:
        self._output.close()
        if self._reason == "abort":
            raise ApiError(500, "The server ended this answer before it was complete.")
        message = self._message()
        message.stop_reason = self._stop_reason()
        message.stop_sequence = str(self._stop) if message.stop_reason == "stop_sequence" else None
        return message

    def _stop_reason(self) -> StopReason:
        if self._reason == "length":
            whole = self.answer.completion_tokens >= self._max_tokens
            return "max_tokens" if whole else "model_context_window_exceeded"
        if any(isinstance(block, ToolUseBlock) for block in self._output.blocks):
            return "tool_use"
        return "stop_sequence" if isinstance(self._stop, str) else "end_turn"

    def _message(self) -> MessagesAnswer:
        usage = self.answer.usage()
        details = usage.prompt_tokens_details
        cached = details.cached_tokens if details else 0
        return MessagesAnswer(
            id=self.answer.id,
            model=self.answer.model,
            content=self._output.blocks,
            usage=MessagesUsage(usage.prompt_tokens - cached, usage.completion_tokens, cached),
        )
