"""How the served model writes calls and reasoning; chosen once, at the start, from the flags and its chat template."""

from dataclasses import dataclass
from typing import Any

from octavo import json_schemas
from octavo._core import Tokenizer
from octavo.config import ServerConfig
from octavo.errors import ModelError
from octavo.server.errors import ApiError
from octavo.server.markup.reader import Markers
from octavo.server.markup.sink import GrammarParser, Sink, new_call_id
from octavo.server.markup.tidy import Tidy
from octavo.server.parts import OutputParser, Part, PlainText
from octavo.server.reasoning.grammar import behind_reasoning, in_channel
from octavo.server.reasoning.styles import HARMONY as HARMONY_STYLE
from octavo.server.reasoning.styles import STYLES, ReasoningStyle, style_of_template
from octavo.server.reasoning.thinking import Thinking
from octavo.server.tools.choice import ToolChoice, arguments_schema, needs_flags
from octavo.server.tools.forced import named_call, required_calls
from octavo.server.tools.grammar import calls_or_answer, channel_calls_or_answer
from octavo.server.tools.harmony import harmony
from octavo.server.tools.registry import HARMONY, PARSERS, ToolParser, parser_of_template
from octavo.server.tools.schema_types import ParameterTypes
from octavo.structured import Structure


class ChoiceParser:
    """The whole reading of one choice: the format's parser, and what tidies its parts."""

    def __init__(self, parser: OutputParser, hidden: Markers | None) -> None:
        self._parser = parser
        self._tidy = Tidy(hidden)

    @property
    def thinking(self) -> bool:
        """Whether reasoning goes on, or may still begin."""
        return isinstance(self._parser, Thinking) and self._parser.thinking

    @property
    def reasons(self) -> bool:
        """Whether there is reasoning at all, as far as is known."""
        return isinstance(self._parser, Thinking) and self._parser.entered

    def push(self, text: str) -> list[Part]:
        return self._tidy.take(self._parser.push(text))

    def finish(self) -> list[Part]:
        return [*self._tidy.take(self._parser.finish()), *self._tidy.finish()]


@dataclass(frozen=True)
class Held:
    """What an output has to match, and the field of the request that says so."""

    field: str
    structure: Structure
    complete: bool = False
    """It is in the model's own format already, channels included."""


@dataclass(frozen=True)
class OutputFormats:
    tools: ToolParser | None = None
    """What reads calls that the model makes on its own; None: it has no format that is known."""
    auto_tools: bool = False
    """Whether requests may leave it to the model to call."""
    reasoning: ReasoningStyle | None = None
    reasoning_end: tuple[int, ...] = ()
    """The token that ends the reasoning, where a single one does."""
    special_tokens: Markers | None = None
    """Special tokens, which have to be in the text for the parsers, and are not shown; None: parsers need none."""
    marks_calls: bool = False
    """Whether a special token begins a call."""
    marks_reasoning: bool = False
    """Whether special tokens stand around the reasoning."""

    @property
    def harmony(self) -> bool:
        return self.tools is HARMONY or self.reasoning is HARMONY_STYLE

    def check(self, choice: ToolChoice) -> None:
        """Raises ApiError 400 for a choice that nothing here can read."""
        if choice.mode == "auto" and not self.auto_tools:
            raise needs_flags(self.tools is not None)

    def reads(self, choice: ToolChoice) -> bool:
        """Whether there is anything to be read in the output of such a request."""
        return self.reasoning is not None or self.harmony or choice.mode != "none"

    def needs_special_tokens(self, choice: ToolChoice) -> bool:
        return self.special_tokens is not None and self.reads(choice)

    def parser(self, choice: ToolChoice, prompt: str, *, hide_special_tokens: bool) -> OutputParser:
        """For one choice of a request with this prompt."""
        if not self.reads(choice):
            return PlainText()
        inner = self._tool_parser(choice)
        if self.reasoning is not None and self.reasoning is not HARMONY_STYLE:
            inner = Thinking(self.reasoning, inner, opened=self.reasoning.opened_by(prompt))
        return ChoiceParser(inner, self.special_tokens if hide_special_tokens else None)

    def _tool_parser(self, choice: ToolChoice) -> OutputParser:
        make_id = self.tools.make_id if self.tools is not None else new_call_id
        sink = Sink(names=choice.names, make_id=make_id)
        if self.harmony:
            return GrammarParser(harmony, sink)
        if choice.mode == "named":
            return GrammarParser(named_call(choice.named), sink)
        if choice.mode == "required":
            return GrammarParser(required_calls, sink)
        if choice.mode == "auto" and self.tools is not None:
            return GrammarParser(self.tools.grammar(ParameterTypes(choice.schemas)), sink)
        return PlainText()

    def structure(self, choice: ToolChoice, held: Held | None) -> Held | None:
        """What the output has to match: calls that are forced, the structure `held`, or what allows both.

        As with OpenAI, `response_format` is for an answer that is no call; vLLM's own fields are for the whole output.
        Of a format that has no grammar, `held` forbids calls, and a function's `strict` is left to the model.
        """
        if choice.mode in ("named", "required"):
            return Held("tools", self._forced(choice), complete=True)
        strict = any(tool.strict for tool in choice.callable())
        if choice.mode != "auto" or (not strict if held is None else held.field != "response_format"):
            return held
        schemas = {tool.name: schema_text(arguments_schema(tool)) for tool in choice.callable()}
        answer = None if held is None else held.structure
        both = None
        if self.harmony:
            both = None if answer is None else channel_calls_or_answer(schemas, answer)
        elif self.tools is not None and self.tools.form is not None:
            both = calls_or_answer(self.tools.form, schemas, answer, special_tokens=self.marks_calls)
        return held if both is None else Held("tools" if held is None else held.field, both, complete=True)

    def _forced(self, choice: ToolChoice) -> Structure:
        schema = choice.forced_schema()
        if self.harmony or schema is None:
            schemas = {tool.name: schema_text(arguments_schema(tool)) for tool in choice.callable()}
            calls = channel_calls_or_answer(schemas, None)
            assert calls is not None  # noqa: S101  only an answer can be no rule
            return calls
        return Structure("json_schema", schema_text(schema))

    def placed(self, held: Held, prompt: str, *, with_budget: bool) -> tuple[Structure, tuple[int, ...]]:
        """The structure and the tokens behind which it holds; none: from the first token, reasoning being part of it.

        Raises ApiError 400 where it would hold from no token that is known.
        """
        structure, field = held.structure, held.field
        style = self.reasoning
        if self.harmony:
            inside = structure if held.complete else in_channel(structure)
            if inside is None:
                raise ApiError(400, f"{field}: this grammar cannot be combined with the model's channels.", field)
            return inside, ()
        opened = False if style is None else style.opened_by(prompt)
        if style is None or opened is False:
            return structure, ()
        if opened is None and not self.reasoning_end:
            return structure, ()  # what has no token for reasoning has not learned to reason
        if opened is None and not with_budget:
            grammar = behind_reasoning(style, structure, special_tokens=self.marks_reasoning)
            if grammar is not None:
                return grammar, ()
        return structure, self.end_of_reasoning(field)

    def end_of_reasoning(self, field: str) -> tuple[int, ...]:
        """Raises ApiError 400 where no single token ends it: then nothing can wait for it, as `field` asks."""
        if self.reasoning is not None and not self.reasoning_end:
            end = self.reasoning.ends[0]
            raise ApiError(
                400, f"{field}: cannot wait for the end of the reasoning: {end!r} is no token of this model.", field
            )
        return self.reasoning_end

    def thinking_budget(self, asked: int | None, prompt: str) -> int | None:
        """`thinking_token_budget`, where there is reasoning to be cut. Raises ApiError 400 where none can be."""
        if asked is None:
            return None
        if self.reasoning is None or self.harmony:
            message = "needs a server with --reasoning-parser, for a model that marks its reasoning with tokens"
            raise ApiError(400, f"thinking_token_budget: {message}.", "thinking_token_budget")
        return None if self.reasoning.opened_by(prompt) is False else asked


def schema_text(schema: dict[str, Any]) -> str:
    """A schema for the grammar, without white space between the parts: small models would fill lines with it."""
    try:
        return json_schemas.to_text(schema, compact=True, whitespace=None, closed=False)
    except ValueError as error:
        raise ApiError(400, f"tools: {error}", "tools") from None


def choose_formats(config: ServerConfig, template: str | None, tokenizer: Tokenizer | None) -> OutputFormats:
    """ModelError when a parser was asked for, and the chat template shows none that is known."""
    source = template or ""
    name: str | None = config.tool_call_parser
    if name == "auto":
        name = parser_of_template(source)
        if name is None and config.enable_auto_tool_choice:
            raise ModelError(
                "--enable-auto-tool-choice: the chat template shows no format of calls that is known; name one with "
                f"--tool-call-parser: {', '.join(PARSERS)}"
            )
    tools = None if name is None else PARSERS[name]
    style_name: str | None = config.reasoning_parser
    if style_name == "auto":
        style_name = style_of_template(source)
    style = HARMONY_STYLE if style_name is None and tools is HARMONY else STYLES.get(style_name or "")
    return OutputFormats(
        tools=tools,
        auto_tools=tools is not None and config.enable_auto_tool_choice is not False,
        reasoning=style,
        reasoning_end=_single_tokens(tokenizer, () if style is None else style.ends),
        special_tokens=_special_tokens(tokenizer, tools, style),
        marks_calls=tools is not None and tools.form is not None and _has_special(tokenizer, tools.form.open),
        marks_reasoning=style is not None and any(_has_special(tokenizer, text) for text in style.ends),
    )


def _single_tokens(tokenizer: Tokenizer | None, texts: tuple[str, ...]) -> tuple[int, ...]:
    if tokenizer is None:
        return ()
    return tuple(token for text in texts if (token := tokenizer.token_id(text)) is not None)


def _special_tokens(
    tokenizer: Tokenizer | None, tools: ToolParser | None, style: ReasoningStyle | None
) -> Markers | None:
    """All special tokens, if those that the parsers look for are among them."""
    if tokenizer is None:
        return None
    wanted = [*(tools.markers if tools is not None else ()), *((*style.starts, *style.ends) if style else ())]
    if not any(_has_special(tokenizer, text) for text in wanted):
        return None
    special = []
    for token in range(tokenizer.vocab_size):
        text = tokenizer.token(token)
        # All special tokens of known models are in brackets; decoding the others too would take a second.
        if text and text[0] in "<[" and text[-1] in ">]" and len(text) > 2 and _is_special(tokenizer, token):
            special.append(text)
    return Markers([text for text in special if not any(text.startswith(other) for other in special if other != text)])


def _has_special(tokenizer: Tokenizer | None, text: str) -> bool:
    return tokenizer is not None and _is_special(tokenizer, tokenizer.token_id(text))


def _is_special(tokenizer: Tokenizer, token: int | None) -> bool:
    return token is not None and tokenizer.decode([token], True) == "" != tokenizer.decode([token], False)
