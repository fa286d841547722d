"""The parsers of tool calls by the names that vLLM has for them, and which one a chat template asks for."""

from collections.abc import Callable
from dataclasses import dataclass

from octavo.server.markup.sink import Grammar, MakeId, kimi_call_id, mistral_call_id, new_call_id
from octavo.server.tools import grammar, harmony, marked, pythonic, xml_calls
from octavo.server.tools.grammar import CallForm
from octavo.server.tools.marked import Format
from octavo.server.tools.schema_types import ParameterTypes


@dataclass(frozen=True)
class ToolParser:
    grammar: Callable[[ParameterTypes], Grammar]
    markers: tuple[str, ...]
    """What has to be in the text, even where a tokenizer calls it a special token."""
    make_id: MakeId = new_call_id
    form: CallForm | None = None
    """How a grammar writes a call; None: this format is only read."""


def _of(format: Format, form: CallForm | None = None) -> ToolParser:
    return ToolParser(lambda _types: format.grammar, format.markers, form=form)


def _xml(tags: xml_calls.Tags) -> ToolParser:
    return ToolParser(lambda types: xml_calls.xml_grammar(tags, types), (*tags.frame, *tags.function, *tags.parameter))


_HERMES = _of(marked.HERMES, grammar.HERMES)
_LLAMA3 = _of(marked.LLAMA3, grammar.LLAMA3)
_PYTHONIC = _of(pythonic.PYTHONIC)
_QWEN3_XML = _xml(xml_calls.QWEN3)
_DEEPSEEK = ToolParser(lambda _types: marked.DEEPSEEK_V3.grammar, (*marked.DEEPSEEK_V3.markers, "<｜tool▁sep｜>"))
_GLM = ToolParser(xml_calls.glm_grammar, ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>"))
HARMONY = ToolParser(lambda _types: harmony.harmony, harmony.MARKERS)

PARSERS: dict[str, ToolParser] = {
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v31": _DEEPSEEK,
    "deepseek_v32": _xml(xml_calls.DEEPSEEK_V32),
    "glm45": _GLM,
    "glm47": _GLM,
    "granite": _of(marked.GRANITE),
    "granite-20b-fc": _of(marked.GRANITE_20B),
    "granite4": _HERMES,
    "hermes": _HERMES,
    "hunyuan_a13b": _of(marked.JAMBA),
    "internlm": ToolParser(lambda _types: marked.INTERNLM.grammar, (*marked.INTERNLM.markers, "<|plugin|>")),
    "jamba": _of(marked.JAMBA),
    "kimi_k2": ToolParser(
        lambda _types: marked.KIMI_K2.grammar,
        (*marked.KIMI_K2.markers, "<|tool_call_argument_begin|>"),
        kimi_call_id,
    ),
    "lfm2": _of(pythonic.LFM2),
    "llama3_json": _LLAMA3,
    "llama4_json": _LLAMA3,
    "llama4_pythonic": _PYTHONIC,
    "longcat": _of(marked.LONGCAT, grammar.LONGCAT),
    "mimo": _QWEN3_XML,
    "minimax_m2": _xml(xml_calls.MINIMAX_M2),
    "mistral": ToolParser(
        lambda _types: marked.MISTRAL.grammar, (*marked.MISTRAL.markers, "[ARGS]", "[CALL_ID]"), mistral_call_id
    ),
    "olmo3": _of(pythonic.OLMO3),
    "openai": HARMONY,
    "phi4_mini_json": _of(marked.PHI4_MINI),
    "pythonic": _PYTHONIC,
    "qwen3_coder": _QWEN3_XML,
    "qwen3_json": _HERMES,
    "qwen3_xml": _QWEN3_XML,
    "seed_oss": _xml(xml_calls.SEED),
    "xlam": _of(marked.XLAM),
}

_TEMPLATE_MARKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<|channel|>", "<|message|>"), "openai"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<minimax:tool_call>",), "minimax_m2"),
    (("<seed:tool_call>",), "seed_oss"),
    (("<｜DSML｜",), "deepseek_v32"),
    (("<｜tool▁calls▁begin｜>",), "deepseek_v3"),
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<|tool_call_start|>",), "lfm2"),
    (("<longcat_tool_call>",), "longcat"),
    (("<arg_key>",), "glm45"),
    (("<tool_call>", "<function="), "qwen3_coder"),
    (("<|action_start|>",), "internlm"),
    (("<|tool_call|>",), "granite"),
    (("<|tool|>", "<|/tool|>"), "phi4_mini_json"),
    (("functools[",), "phi4_mini_json"),
    (("<|function_call_library|>",), "granite-20b-fc"),
    (("<function_calls>",), "olmo3"),
    (("<tool_calls>",), "jamba"),
    (("<tool_call>",), "hermes"),
    (('[{"name": "tool_call_name", "arguments"',), "xlam"),
    (("[func_name1(",), "pythonic"),
    (('{"name": function name, "parameters": dictionary',), "llama3_json"),
    (("<|python_start|>",), "llama4_pythonic"),
    (("<|python_tag|>",), "llama3_json"),
)
"""What a template writes for calls → the parser of those. The first row that is in a template wins."""


def parser_of_template(template: str) -> str | None:
    """The parser for the calls that a chat template writes; None when it shows none."""
    return next((name for marks, name in _TEMPLATE_MARKS if all(mark in template for mark in marks)), None)
