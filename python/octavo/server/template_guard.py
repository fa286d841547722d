"""What a chat template may take: seconds and memory. A template is code that came with a model.

Jinja's sandbox keeps a template away from Python, but not from looping, nor from making a text of 10¹² letters. So the
time is looked at in each turn of a loop and at each call, and whatever can make a text or list much larger than its
parts is measured first: operators, methods of strings, filters, and the texts that blocks and macros put together.
"""

import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jinja2 import Template, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from octavo.errors import TemplateError

RENDER_SECONDS = 5.0
"""A conversation of a million tokens takes well under a second."""
MAX_CHARACTERS = 64 << 20
"""Far above any context length."""
MAX_NUMBER_BITS = 4096
MAX_WIDTH = 100_000
"""Of padding, indentation, and the like; a number above it has no use in a template."""

_TICKING = f"{__name__}.ticking"
_LONG_WIDTH = re.compile(r"\d{6,}")
_running = threading.local()


@contextmanager
def limited_time() -> Iterator[None]:
    """Templates that this thread renders inside get RENDER_SECONDS together."""
    _running.deadline = time.monotonic() + RENDER_SECONDS
    try:
        yield
    finally:
        del _running.deadline


def tick() -> None:
    """Called by templates in every turn. Raises TemplateError when the time is over."""
    if time.monotonic() > getattr(_running, "deadline", float("inf")):
        raise TemplateError(f"the chat template took more than {RENDER_SECONDS:g} seconds")


def ticking(values: Iterable[Any]) -> Iterator[Any]:
    """What a loop goes through."""
    for value in values:
        tick()
        yield value


def check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise TemplateError(f"the chat template made more than {MAX_CHARACTERS} characters or items")


def check_widths(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_WIDTH:
            raise TemplateError(f"the chat template used a number that is too large: {value:.3g}")


def check_joined(separator: object, values: object) -> None:
    if isinstance(values, Sequence):
        check_size(
            sum(len(value) if isinstance(value, str) else 1 for value in values) + len(values) * width(separator)
        )


def width(value: object) -> int:
    return len(value) if isinstance(value, str | Sequence) else 0


def concat(pieces: Iterable[str]) -> str:
    """The text of a block or a macro, from its parts."""
    pieces = list(pieces)
    check_size(sum(map(len, pieces)))
    return "".join(pieces)


def str_join(values: Iterable[object]) -> str:
    """What the operator ~ does."""
    return concat(map(str, values))


def multiply(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() + right.bit_length())
    else:
        for one, other in ((left, right), (right, left)):
            if isinstance(other, int):
                check_size(width(one) * other)


def power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() * right)


def check_bits(bits: int) -> None:
    if bits > MAX_NUMBER_BITS:
        raise TemplateError("the chat template made a number that is too large")


def percent(left: Any, right: Any) -> None:
    if isinstance(left, str):
        check_format(left, right if isinstance(right, tuple) else (right,))


def check_format(form: str, values: Iterable[object]) -> None:
    check_widths(values)
    if _LONG_WIDTH.search(form):
        raise TemplateError("the chat template used a width that is too large")


OPERATORS: Mapping[str, Callable[[Any, Any], None]] = {"*": multiply, "**": power, "%": percent}


def check_string_method(text: str, name: str, arguments: Sequence[Any]) -> None:
    match name:
        case "join" if arguments:
            check_joined(text, arguments[0])
        case "replace" if len(arguments) > 1:
            check_size(len(text) + (len(text) + 1) * width(arguments[1]))
        case "format" | "format_map":
            check_format(text, arguments)
        case _:
            check_widths(arguments)


def guarded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at what it is given. What comes before the value is Jinja's own context, for some filters."""
    skip = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def guarded(*arguments: Any, **options: Any) -> Any:
        tick()
        value, *rest = arguments[skip:]
        rest += options.values()
        if isinstance(value, str) and name in ("replace", "format"):
            check_string_method(value, name, rest)
        elif name == "join":
            check_joined(rest[0] if rest else "", value)
        else:
            check_widths(rest)
        return function(*arguments, **options)

    return guarded


class GuardedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with limits. Add filters before `guard_filters`."""

    concat = staticmethod(concat)
    intercepted_binops = frozenset(("+", *OPERATORS))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":  # at most doubles, and is by far the most frequent
            result = left + right
            if isinstance(result, str | list | tuple):
                check_size(len(result))
            return result
        OPERATORS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, called: Any, /, *arguments: Any, **options: Any) -> Any:
        tick()
        # The sandbox wraps `format`.
        text = getattr(getattr(called, "__wrapped__", called), "__self__", None)
        if isinstance(text, str):
            check_string_method(text, getattr(called, "__name__", ""), [*arguments, *options.values()])
        return super().call(context, called, *arguments, **options)

    def guard_filters(self) -> None:
        self.filters = {name: guarded_filter(name, function) for name, function in self.filters.items()}

    def make_template(self, parsed: nodes.Template) -> Template:
        """Compiles what `parse` returned, with a look at the time in each turn of a loop."""
        for loop in parsed.find_all(nodes.For):
            loop.iter = nodes.Call(nodes.ImportedName(_TICKING), [loop.iter], [], None, None)
        template = self.from_string(parsed)
        template.root_render_func.__globals__["str_join"] = str_join
        return template
