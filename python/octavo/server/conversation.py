"""A chat request from its messages to the parts of each answer. Every route that chats is a thin user of this.

start: messages → template → prompt → engine      take: Delta → parser of its choice → ChoiceNews      collect: all
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from octavo._core import Accepted, Delta
from octavo.server.answer import Answer
from octavo.server.engine_client import Stream
from octavo.server.formats import ChoiceParser, Held
from octavo.server.messages import render
from octavo.server.parts import Content, OutputParser, Part, PlainText, Reasoning, ToolCallArguments, ToolCallStart
from octavo.server.protocol import ChatRequest
from octavo.server.sampling import Resolved
from octavo.server.service import Service
from octavo.server.structures import structure_of
from octavo.server.tools.choice import ToolChoice, tool_choice

FinishReason = Literal["stop", "length", "tool_calls", "abort"]


@dataclass(frozen=True, slots=True)
class ChoiceNews:
    """What one delta says of one choice."""

    choice: int
    parts: list[Part]
    delta: Delta
    finish_reason: FinishReason | None
    """Not None: the last news of this choice."""
    stop_reason: int | str | None


@dataclass
class ToolCall:
    id: str
    name: str
    arguments: str
    """JSON."""


@dataclass
class ChoiceMessage:
    """One finished choice."""

    content: str = ""
    reasoning: str | None = None
    """None when the model wrote none, or the request has no parser for it."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: FinishReason = "abort"
    stop_reason: int | str | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    """One entry a delta, in the route's shape."""


class Conversation:
    """One chat request under way. `start` makes it; `answer` has its counts."""

    def __init__(self, chat: ChatRequest, answer: Answer, choice: ToolChoice, parsers: list[OutputParser]) -> None:
        self.chat = chat
        self.answer = answer
        self.choice = choice
        self._parsers = parsers
        """One a choice."""
        self._called: set[int] = set()
        """Choices with a call."""

    @classmethod
    async def start(
        cls,
        service: Service,
        chat: ChatRequest,
        stream: Stream,
        *,
        id: str,
        model: str,
        clamp_max_tokens: bool = False,
    ) -> "Conversation":
        """Renders the messages and sends the prompt to the engine. Raises ApiError 400 that names the field.

        With `clamp_max_tokens` the client's limit is cut to what the context leaves, where it is refused otherwise.
        """
        service.check_priority(chat.priority)
        formats = service.formats
        choice = tool_choice(chat)
        formats.check(choice)
        prompt = await prompt_of(service, chat, choice)
        hide = chat.skip_special_tokens
        if formats.needs_special_tokens(choice):
            chat = msgspec.structs.replace(chat, skip_special_tokens=False)
        resolved = resolve(service, chat, choice, prompt)
        if clamp_max_tokens:
            resolved = replace(resolved, clamp=True)
        answer = Answer(service, stream, id=id, model=model, n=chat.n)
        if formats.reasoning is not None:
            answer.reasoning_tokens = 0
        answer.submit(
            prompt,
            resolved,
            add_special_tokens=chat.add_special_tokens,
            priority=chat.priority,
            cache_salt=chat.cache_salt,
        )
        parsers = [formats.parser(choice, prompt, hide_special_tokens=hide) for _ in range(chat.n)]
        return cls(chat, answer, choice, parsers)

    @property
    def plain(self) -> bool:
        """Whether the text of every delta is content as it stands."""
        return isinstance(self._parsers[0], PlainText)

    def take(self, delta: Delta) -> ChoiceNews:
        """Counts a delta, and reads its text."""
        choice = self.answer.take(delta)
        parser = self._parsers[choice]
        thinking = isinstance(parser, ChoiceParser) and parser.thinking
        parts = parser.push(delta.text)
        if delta.finish_reason is not None:
            parts += parser.finish()
        if self.answer.reasoning_tokens is not None and isinstance(parser, ChoiceParser):
            thinking = (thinking and parser.reasons) or any(isinstance(part, Reasoning) for part in parts)
            if thinking:
                self.answer.reasoning_tokens += self._num_reasoning(delta, still=parser.thinking)
        if not isinstance(parser, PlainText):
            parts = [part for part in parts if self._returned(part, choice)]
        return ChoiceNews(choice, parts, delta, self._finish_reason(delta, choice), delta.stop_reason)

    def _num_reasoning(self, delta: Delta, *, still: bool) -> int:
        """Tokens up to the one that ends the reasoning: news that waited have what follows it, too."""
        end = self.answer.service.formats.reasoning_end
        token_ids = delta.token_ids if not still and len(end) == 1 else []
        return token_ids.index(end[0]) + 1 if token_ids and end[0] in token_ids else delta.num_tokens

    def _returned(self, part: Part, choice: int) -> bool:
        """Whether the request wants this part; notes calls."""
        match part:
            case Reasoning():
                return self.chat.include_reasoning
            case ToolCallStart(index) | ToolCallArguments(index):
                self._called.add(choice)
                return index == 0 or self.choice.parallel
        return True

    def _finish_reason(self, delta: Delta, choice: int) -> FinishReason | None:
        """As OpenAI has it: "tool_calls" where the model chose what to call, "stop" where the request did."""
        if delta.finish_reason == "stop" and choice in self._called and self.choice.mode != "named":
            return "tool_calls"
        return delta.finish_reason

    async def collect(
        self, *, keep_token_ids: bool = False, logprobs: Callable[[int, Delta], Any] | None = None
    ) -> list[ChoiceMessage]:
        """Waits for every choice. Raises ApiError when the engine refuses or loses the request."""
        answer = self.answer
        builders = [MessageBuilder() for _ in range(answer.n)]
        while not answer.stream.done:
            for event in await answer.stream.next():
                if isinstance(event, Delta):
                    news = self.take(event)
                    builder = builders[news.choice]
                    builder.add(news)
                    if keep_token_ids:
                        builder.message.token_ids += event.token_ids
                    if logprobs is not None and event.num_tokens:
                        builder.message.logprobs.append(logprobs(news.choice, event))
                elif isinstance(event, Accepted):
                    answer.accept(event, keep_ids=keep_token_ids)
                else:
                    raise answer.fail(event)
        answer.log_end("answered")
        return [builder.finish() for builder in builders]


def resolve(service: Service, chat: ChatRequest, choice: ToolChoice, prompt: str) -> Resolved:
    """The request's sampling, with the grammar that makes the answer a call, or gives it the structure asked for."""
    formats = service.formats
    budget = formats.thinking_budget(chat.thinking_token_budget, prompt)
    chat = msgspec.structs.replace(chat, thinking_token_budget=budget)
    asked = structure_of(chat)
    held = formats.structure(choice, None if asked is None else Held(*asked))
    if held is not None:
        structure, end = formats.placed(held, prompt, with_budget=budget is not None)
        return service.sampling.chat(chat, structure=structure, structure_field=held.field, reasoning_end=end)
    end = () if budget is None else formats.end_of_reasoning("thinking_token_budget")
    return service.sampling.chat(chat, reasoning_end=end)


async def prompt_of(service: Service, chat: ChatRequest, choice: ToolChoice | None = None) -> str:
    """The text that the model goes on with. Raises ApiError 400 that names the field."""
    choice = tool_choice(chat) if choice is None else choice
    hidden = choice.mode == "none" and service.config.exclude_tools_when_tool_choice_none
    return await render(
        service,
        chat.messages,
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
        kwargs=chat.chat_template_kwargs,
        tools=None if hidden else choice.definitions,
        documents=chat.documents,
        chat_template=chat.chat_template,
        reasoning_effort=chat.reasoning_effort,
    )


class MessageBuilder:
    """Puts the parts of one choice together."""

    def __init__(self) -> None:
        self.message = ChoiceMessage()
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[ToolCallStart, list[str]]] = []

    def add(self, news: ChoiceNews) -> None:
        for part in news.parts:
            match part:
                case Content(text):
                    self._content.append(text)
                case Reasoning(text):
                    self._reasoning.append(text)
                case ToolCallStart():
                    self._calls.append((part, []))
                case ToolCallArguments(index, text):
                    self._calls[index][1].append(text)
        if news.finish_reason is not None:
            self.message.finish_reason, self.message.stop_reason = news.finish_reason, news.stop_reason

    def finish(self) -> ChoiceMessage:
        message = self.message
        message.content = "".join(self._content)
        message.reasoning = "".join(self._reasoning) if self._reasoning else None
        message.tool_calls = [ToolCall(start.id, start.name, "".join(pieces)) for start, pieces in self._calls]
        return message
