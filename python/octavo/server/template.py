"""Chat templates: a conversation becomes the prompt that the model was trained on.

    ChatTemplate(source, special_tokens).render(messages) -> str

A template is code that came with a model, so it runs in Jinja's sandbox, with the names, filters and white-space rules
that Transformers gives it (https://huggingface.co/docs/transformers/chat_templating): the same text comes out. Whatever
a template does wrong is a TemplateError of one line. Rendering uses no shared state and may run in any thread.
"""

import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError as JinjaError
from jinja2 import TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.utils import Namespace

from octavo.errors import ModelError, TemplateError
from octavo.server.template_guard import GuardedEnvironment, check_size, limited_time

SLOW_SECONDS = 0.02
_CONTINUE_MARK = "\ue000octavo: continue here\ue001 "
"""Ends in a space, so that it shows whether the template strips what follows a message."""
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_TEXT_PARTS = ("text", "input_text", "output_text")

ContentFormat = Literal["string", "openai"]


class ChatTemplate:
    """A compiled template and the special tokens that it may write."""

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        """TemplateError when `source` is not valid Jinja."""
        self.source = source
        self.special_tokens = dict(special_tokens or {})
        self.slow = True
        """Whether the last text took long, so that the next is better made beside the event loop."""
        environment = _environment()
        try:
            parsed = environment.parse(source)
            self.content_format: ContentFormat = _content_format(parsed)
            self.variables = frozenset(meta.find_undeclared_variables(parsed))
            """What it reads, and does not set itself."""
            self._template = environment.make_template(parsed)
        except TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
            ) from error
        except (JinjaError, RecursionError) as error:
            raise TemplateError(f"the chat template cannot be compiled: {_first_line(error)}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt's text. `kwargs` are further variables of the template, above the special tokens.

        `continue_final_message` ends the prompt right after the last message's text, so that the model goes on with it;
        it excludes `add_generation_prompt`. Raises TemplateError when the template refuses the messages, a message has
        parts that are not text, or values are no JSON.
        """
        if not messages:
            raise TemplateError("messages must not be empty")
        if continue_final_message and add_generation_prompt:
            raise TemplateError("continue_final_message and add_generation_prompt exclude each other")
        conversation = [self._message(index, message) for index, message in enumerate(messages)]
        final_text = _mark_final_text(conversation[-1]) if continue_final_message else ""
        variables = {
            **self.special_tokens,
            **_plain(kwargs),
            "messages": conversation,
            "tools": None if tools is None else _plain(list(tools)),
            "documents": None if documents is None else _plain(list(documents)),
            "add_generation_prompt": add_generation_prompt,
        }
        rendered = self._run(variables)
        return _cut_at_mark(rendered, final_text) if continue_final_message else rendered

    def _message(self, index: int, message: Mapping[str, Any]) -> dict[str, Any]:
        """A copy without nulls, its content in the form that the template reads."""
        if not isinstance(message, Mapping):
            raise TemplateError(f"messages[{index}] must be an object")
        plain: dict[str, Any] = _plain({key: value for key, value in message.items() if value is not None})
        if isinstance(plain.get("content"), list):
            texts = [_part_text(f"messages[{index}].content[{n}]", part) for n, part in enumerate(plain["content"])]
            if self.content_format == "string":
                plain["content"] = "\n".join(texts)
            else:
                plain["content"] = [{"type": "text", "text": text} for text in texts]
        reasoning = next((plain[field] for field in _REASONING_FIELDS if field in plain), None)
        return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}

    def _run(self, variables: dict[str, Any]) -> str:
        pieces: list[str] = []
        size = 0
        began = time.monotonic()
        try:
            with limited_time():
                for piece in self._template.generate(variables):
                    pieces.append(piece)
                    size += len(piece)
                    check_size(size)
        except TemplateError:
            raise
        except JinjaError as error:
            raise TemplateError(f"the chat template refused the messages: {_first_line(error)}") from error
        except Exception as error:  # a template is foreign code: any error in it is its own, or the client's
            name = type(error).__name__
            raise TemplateError(f"the chat template failed on these messages: {name}: {_first_line(error)}") from error
        finally:
            self.slow = time.monotonic() - began > SLOW_SECONDS
        return "".join(pieces)


def load_chat_template(value: str) -> str:
    """The template in the file `value`, or `value` itself when it is one. ModelError when it is neither."""
    path = Path(value)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # a literal template may be too long, or hold what no path can
        is_file = False
    if is_file:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"cannot read the chat template {value}: {error}") from error
    if not any(character in value for character in "{}\n"):
        raise ModelError(f"the chat template {value!r} is neither a file nor a template: it has no {{ or }}")
    return value


def _part_text(where: str, part: object) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    if not isinstance(part, dict) or kind not in _TEXT_PARTS:
        raise TemplateError(f"{where}: only text parts are supported, not {kind!r}")
    if not isinstance(part.get("text"), str):
        raise TemplateError(f"{where}.text must be a string")
    return str(part["text"])


def _mark_final_text(message: dict[str, Any]) -> str:
    """Puts the mark after the message's text, and returns that text."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + _CONTINUE_MARK
        return content
    if isinstance(content, list) and content:
        text = str(content[-1]["text"])
        content[-1]["text"] = text + _CONTINUE_MARK
        return text
    raise TemplateError("continue_final_message: the final message has no text to continue")


def _cut_at_mark(rendered: str, final_text: str) -> str:
    """All before the mark; white space is cut as well where the template stripped the message."""
    position = rendered.rfind(_CONTINUE_MARK.strip())
    if position < 0 or final_text.strip() not in rendered:
        raise TemplateError("continue_final_message: the chat template changes or leaves out the final message")
    kept = rendered[:position]
    return kept if rendered.startswith(_CONTINUE_MARK, position) else kept.rstrip()


def _content_format(tree: nodes.Template) -> ContentFormat:
    """ "openai" when the template loops over a message's content, so that it reads a list of parts; else "string".

    Content is what ends in `.content` or `["content"]`, a variable called `content`, and what is set from those.
    """
    names = {"content"}
    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node, names):
            names.add(assignment.target.name)
    return "openai" if any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For)) else "string"


def _is_content(node: nodes.Node | None, names: set[str]) -> bool:
    if isinstance(node, nodes.Filter):
        return _is_content(node.node, names)
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"


def _plain(value: Any) -> Any:
    """A copy made of JSON's types alone: the sandbox knows which of their methods are safe."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TemplateError(f"a chat template takes JSON values only, not {type(value).__name__}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; for a prompt its body is written as it is."""

    tags = {"generation"}  # noqa: RUF012  the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _SafeDict:
    """`dict(...)` and `dict.fromkeys(...)` without the type itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _SafeNamespace(Namespace):
    """A namespace which takes no names that begin with an underscore: they lead into the interpreter."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` stays free as a name that templates may use
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _refuse_private(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name like {name!r}")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models saw it in training: Jinja's own filter escapes characters for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> str:
    raise JinjaError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _environment() -> GuardedEnvironment:
    environment = GuardedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, namespace=_SafeNamespace, dict=_SafeDict()
    )
    environment.guard_filters()
    return environment
