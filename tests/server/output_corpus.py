"""Model outputs by parser, with what they say. Special tokens are text here, as the parsers get them.

An entry is (parser, output, expected): expected lists content as a string, reasoning as ("thinks", text), and a call as
(name, arguments), where arguments are a JSON value, or text where the output was cut off within them.
"""

from typing import Any

Case = tuple[str, str, list[Any]]

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "wind": {"type": ["number", "null"]},
        "exact": {"type": "boolean"},
        "unit": {"enum": ["C", "F"]},
        "place": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "$defs": {"Place": {"type": "object"}},
}
SCHEMAS: dict[str, Any] = {"weather": WEATHER}

PARIS = ("weather", {"city": "Paris"})
NESTED = {"city": 'a "b" \\ c', "place": {"x": [1, {"y": None}], "é": "日本 🎉"}, "tags": []}
NESTED_JSON = r'{"city": "a \"b\" \\ c", "place": {"x": [1, {"y": null}], "é": "日本 \ud83c\udf89"}, "tags": []}'

HERMES: list[Case] = [
    ("hermes", "No call: 1 < 2, <tool>.", ["No call: 1 < 2, <tool>."]),
    ("hermes", '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', [PARIS]),
    (
        "hermes",
        'Let me see.\n<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>\n'
        '<tool_call>{"arguments": {"days": 2}, "name": "weather"}</tool_call>\nDone.',
        ["Let me see.", PARIS, ("weather", {"days": 2}), "Done."],
    ),
    ("hermes", '<tool_call>{"name": "weather", "arguments": ' + NESTED_JSON + "}</tool_call>", [("weather", NESTED)]),
    ("hermes", '<tool_call>{"name": "time"}</tool_call>', [("time", {})]),
    ("hermes", '<tool_call>{"name": "time", "arguments": null}}}</tool_call>', [("time", {})]),
    ("hermes", r'<tool_call>{"name": "f", "arguments": "{\"a\": 1}"}</tool_call>', [("f", {"a": 1})]),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"code": "a\n\tb", "re": "\\d"}}</tool_call>',
        [("f", {"code": "a\n\tb", "re": "\\d"})],
    ),
    ("hermes", '<tool_call>[{"name": "f"}, {"name": "g", "arguments": {}}]</tool_call>', [("f", {}), ("g", {})]),
    ("hermes", '<tool_call>{"name": "f"}\n{"name": "g"}</tool_call>', [("f", {}), ("g", {})]),
    ("hermes", "a <tool_call>b</tool_call> c", ["a <tool_call>b</tool_call> c"]),
    ("hermes", '<tool_call>{"nome": "f"}</tool_call>', ['<tool_call>{"nome": "f"}</tool_call>']),
    (
        "hermes",
        '<tool_call>{"name": "no name at all"}</tool_call>',
        ['<tool_call>{"name": "no name at all"}</tool_call>'],
    ),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}, "x": 2}</tool_call>', [("f", {"a": 1}), ', "x": 2}']),
    ("hermes", '<tool_call>{"name": "weather", "argu', ['<tool_call>{"name": "weather", "argu']),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Par', [("weather", '{"city": "Par')]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_c', [PARIS, "</tool_c"]),
    ("hermes", "The end <tool_ca", ["The end <tool_ca"]),
    ("longcat", '<longcat_tool_call>{"name": "f"}</longcat_tool_call>', [("f", {})]),
    ("granite4", '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', [PARIS]),
]
LISTS: list[Case] = [
    ("granite", '<|tool_call|>[{"name": "weather", "arguments": {"city": "Paris"}}]', [PARIS]),
    ("granite", '<tool_call> [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]', [("f", {}), ("g", {})]),
    ("granite", "<|tool_call|> is a token", ["<|tool_call|> is a token"]),
    ("granite", '<|tool_call|>[{"name": "f", "arguments": {"a": 1}}, {"nome', [("f", {"a": 1}), ', {"nome']),
    (
        "granite-20b-fc",
        '<function_call> {"name": "f", "arguments": {"a": 1}}<function_call> {"name": "g"}',
        [("f", {"a": 1}), ("g", {})],
    ),
    (
        "jamba",
        'Sure. <tool_calls>[\n{"name": "weather", "arguments": {"city": "Paris"}}\n]</tool_calls>',
        ["Sure.", PARIS],
    ),
    ("jamba", "<tool_calls>none</tool_calls>", ["<tool_calls>none</tool_calls>"]),
    ("jamba", "<tool_calls>[]</tool_calls>", ["<tool_calls>[]</tool_calls>"]),
    ("hunyuan_a13b", '<tool_calls>[{"name": "f", "arguments": {}}]</tool_calls>', [("f", {})]),
    ("phi4_mini_json", 'functools[{"name": "weather", "arguments": {"city": "Paris"}}]', [PARIS]),
    (
        "phi4_mini_json",
        'Use functools.partial.\nfunctools[{"name": "f", "parameters": {"a": [1]}}]',
        ["Use functools.partial.", ("f", {"a": [1]})],
    ),
    (
        "phi4_mini_json",
        '<|tool_call|>[{"type": "function", "function": {"name": "f", "arguments": {}}}]<|/tool_call|>',
        [("f", {})],
    ),
    ("phi4_mini_json", "functools[1]", ["functools[1]"]),
    (
        "internlm",
        'Sure<|action_start|><|plugin|>\n{"name": "weather", "parameters": {"city": "Paris"}}<|action_end|>\n',
        ["Sure", PARIS],
    ),
    (
        "internlm",
        "<|action_start|><|interpreter|>\nprint(1)<|action_end|>",
        ["<|action_start|><|interpreter|>\nprint(1)<|action_end|>"],
    ),
    (
        "xlam",
        '[{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "f", "arguments": {}}]',
        [PARIS, ("f", {})],
    ),
    ("xlam", 'Here:\n```json\n[{"name": "weather", "arguments": {"city": "Paris"}}]\n```', ["Here:", PARIS]),
    ("xlam", '<tool_call>[{"name": "f", "arguments": {}}]</tool_call>', [("f", {})]),
    ("xlam", '[TOOL_CALLS][{"name": "f", "arguments": {}}]', [("f", {})]),
    ("xlam", "```python\nprint([1])\n```\n[1, 2]", ["```python\nprint([1])\n```\n[1, 2]"]),
]
LLAMA: list[Case] = [
    ("llama3_json", '{"name": "weather", "parameters": {"city": "Paris"}}', [PARIS]),
    ("llama3_json", '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}<|eom_id|>', [PARIS]),
    (
        "llama3_json",
        '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"a": 1}}',
        [("f", {}), ("g", {"a": 1})],
    ),
    ("llama3_json", '{"type": "function", "name": "f", "parameters": {"a": "}{"}}', [("f", {"a": "}{"})]),
    ("llama3_json", 'Like this:\n  {"name": "f", "parameters": {}}\nOk?', ["Like this:", ("f", {}), "Ok?"]),
    ("llama3_json", '{"name": "Bob", "age": 3}', ['{"name": "Bob", "age": 3}']),
    ("llama3_json", '{"name": "Bob"}', ['{"name": "Bob"}']),
    ("llama3_json", "{} {{x}} {\n{\n", ["{} {{x}} {\n{\n"]),
    ("llama3_json", '{"name": "f", "parameters": {"a"', [("f", '{"a"')]),
    ("llama4_json", '{"name": "f", "parameters": {"a": 1.5e3}}', [("f", {"a": 1500.0})]),
]
MISTRAL: list[Case] = [
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "f", "arguments": {}}]',
        [PARIS, ("f", {})],
    ),
    ("mistral", 'Wait.[TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]f[ARGS]{}', ["Wait.", PARIS, ("f", {})]),
    ("mistral", '[TOOL_CALLS]weather{"city": "Paris"}', [PARIS]),
    ("mistral", '[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{"city": "Paris"}', [PARIS]),
    ("mistral", "[TOOL_CALLS]I will not.", ["[TOOL_CALLS]I will not."]),
    ("mistral", "a [TOOL] b [", ["a [TOOL] b ["]),
    ("mistral", "[TOOL_CALLS]weather[AR", ["[TOOL_CALLS]weather[AR"]),
]
PYTHONIC: list[Case] = [
    ("pythonic", '[weather(city="Paris"), time()]', [PARIS, ("time", {})]),
    (
        "pythonic",
        """[f(a=1, b=-2.5, c=True, d=None, e=[1, 'x',], g={'k': (1, 2), 3: {}}, h='it\\'s \\u00e9', i=false)]""",
        [
            (
                "f",
                {
                    "a": 1,
                    "b": -2.5,
                    "c": True,
                    "d": None,
                    "e": [1, "x"],
                    "g": {"k": [1, 2], "3": {}},
                    "h": "it's é",
                    "i": False,
                },
            )
        ],
    ),
    ("pythonic", '[f(a="""x "y"\nz""", b="")]', [("f", {"a": 'x "y"\nz', "b": ""})]),
    ("pythonic", "[a.b.c(x=1)]", [("a.b.c", {"x": 1})]),
    ("pythonic", "See [this](url) and\n[f(x=1)]\nok", ["See [this](url) and", ("f", {"x": 1}), "ok"]),
    ("pythonic", "[1, 2] [x for x in y] [f(1)]", ["[1, 2] [x for x in y] [f(1)]"]),
    ("pythonic", "[__import__('os').system('x')]", ["[__import__('os').system('x')]"]),
    ("pythonic", "[f(a=1, b=2 + 3)]", [("f", {"a": 1}), ", b=2 + 3)]"]),
    ("pythonic", "[f(a=open('x'))]", ["[f(a=open('x'))]"]),
    ("pythonic", '[f(a=1), g(b="x', [("f", {"a": 1}), ', g(b="x']),
    ("pythonic", "[f(a=" + "[" * 100 + "]" * 100 + ")]", ["[f(a=" + "[" * 100 + "]" * 100 + ")]"]),
    ("llama4_pythonic", "<|python_start|>[f(a=1)]<|python_end|>", [("f", {"a": 1})]),
    ("lfm2", "<|tool_call_start|>[f(a=1)]<|tool_call_end|>Checking.", [("f", {"a": 1}), "Checking."]),
    ("olmo3", '<function_calls>\nf(a=1)\ng(b="x")\n</function_calls>', [("f", {"a": 1}), ("g", {"b": "x"})]),
]
QWEN_CALL = """<tool_call>
<function=weather>
<parameter=city>
San "Francisco"
 <CA>
</parameter>
<parameter=days>
3
</parameter>
<parameter=wind>
None
</parameter>
<parameter=exact>
True
</parameter>
<parameter=unit>
C
</parameter>
<parameter=place>
{"x": [1]}
</parameter>
<parameter=tags>
['a', "b"]
</parameter>
<parameter=other>
5
</parameter>
</function>
</tool_call>"""
QWEN_ARGUMENTS = {
    "city": 'San "Francisco"\n <CA>',
    "days": 3,
    "wind": None,
    "exact": True,
    "unit": "C",
    "place": {"x": [1]},
    "tags": ["a", "b"],
    "other": "5",
}
XML: list[Case] = [
    ("qwen3_coder", "Sure.\n\n" + QWEN_CALL, ["Sure.", ("weather", QWEN_ARGUMENTS)]),
    ("qwen3_xml", QWEN_CALL + "\n" + QWEN_CALL, [("weather", QWEN_ARGUMENTS)] * 2),
    ("qwen3_coder", "<function=time>\n</function>\n</tool_call>", [("time", {})]),
    (
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n<parameter=days>\nmany\n</function>",
        [("weather", {"city": "Paris", "days": "many"})],
    ),
    ("qwen3_coder", "<tool_call>\n<function=weather>\n<parameter=city>\nPar", [("weather", '{"city": "Par')]),
    ("qwen3_coder", "<tool_call>\n<function=weather>\n<parameter=days>\n3", [("weather", {"days": 3})]),
    ("qwen3_coder", "<tool_call>\n<function=weather>\noh no", [("weather", {}), "oh no"]),
    ("qwen3_coder", "<tool_call> <function=no\nname> </tool_call>", ["<tool_call> <function=no\nname> </tool_call>"]),
    ("qwen3_coder", "Use <tool_call> tags </tool_call>.", ["Use <tool_call> tags </tool_call>."]),
    (
        "seed_oss",
        "<seed:tool_call>\n<function=f>\n<parameter=a>x</parameter>\n</function>\n</seed:tool_call>",
        [("f", {"a": "x"})],
    ),
    (
        "minimax_m2",
        '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="days">3</parameter>\n</invoke>\n'
        "</minimax:tool_call>",
        [("weather", {"days": 3})],
    ),
    (
        "deepseek_v32",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" '
        'string="true">Paris</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
        [PARIS],
    ),
    (
        "glm45",
        "Ok\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
        ["Ok", PARIS],
    ),
    (
        "glm47",
        "<tool_call>time</tool_call><tool_call>weather<arg_key>days</arg_key><arg_value>2</arg_value></tool_call>",
        [("time", {}), ("weather", {"days": 2})],
    ),
    ("glm45", "<tool_call>not a name</tool_call>", ["<tool_call>not a name</tool_call>"]),
]
DEEPSEEK: list[Case] = [
    (
        "deepseek_v3",
        "Hm<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"city": "Paris"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ["Hm", PARIS, ("f", {})],
    ),
    (
        "deepseek_v31",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
        '{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        [PARIS],
    ),
    ("deepseek_v3", "<｜tool▁calls▁begin｜>oh", ["<｜tool▁calls▁begin｜>oh"]),
    (
        "deepseek_v3",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\nno",
        ["<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\nno"],
    ),
    (
        "kimi_k2",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>',
        [PARIS],
    ),
]
CALL = "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
HARMONY: list[Case] = [
    (
        "openai",
        "<|channel|>analysis<|message|>Hm.<|end|>" + CALL + '{"city": "Paris"}<|call|>',
        [("thinks", "Hm."), PARIS],
    ),
    (
        "openai",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi <b>",
        [("thinks", "Hm."), "Hi <b>"],
    ),
    ("openai", "<|channel|>commentary<|message|>First.<|end|>" + CALL + "{}<|call|>", ["First.", ("weather", {})]),
    ("openai", " to=functions.f<|channel|>commentary json<|message|>{}", [("f", {})]),
    ("openai", "<|start|>assistant to=functions.f<|channel|>commentary<|message|>{}<|call|>", [("f", {})]),
    ("openai", "<|channel|>commentary to=python<|message|>1+1<|call|>", [("thinks", "1+1")]),
    ("openai", "<|channel|>final<|message|>", []),
    ("openai", "<|channel|>fin", []),
    ("openai", '{"plain": true}', ['{"plain": true}']),
]
CASES: list[Case] = [*HERMES, *LISTS, *LLAMA, *MISTRAL, *PYTHONIC, *XML, *DEEPSEEK, *HARMONY]

REASONING: list[tuple[str, bool | None, str, list[Any]]] = [
    ("qwen3", None, "<think>\nHm.\n</think>\n\nYes.", [("thinks", "Hm."), "Yes."]),
    ("qwen3", True, "Hm. <b>\n</think>\n\nYes. ", [("thinks", "Hm. <b>"), "Yes. "]),
    ("qwen3", True, "\n<think>Hm.</think>Yes.", [("thinks", "Hm."), "Yes."]),
    ("qwen3", None, " Yes. </think>", [" Yes. </think>"]),
    ("qwen3", False, "<think>Yes.", ["<think>Yes."]),
    ("qwen3", True, "Hm. </thi", [("thinks", "Hm. </thi")]),
    ("qwen3", None, "<thi", ["<thi"]),
    ("deepseek_r1", True, 'Hm.</think><tool_call>{"name": "f"}</tool_call>', [("thinks", "Hm."), ("f", {})]),
    (
        "granite",
        None,
        "Here is my thought process: I am Here is it. Here's my response: Hello",
        [("thinks", "I am Here is it."), "Hello"],
    ),
    ("granite", None, "Here is my answer.", ["Here is my answer."]),
    ("mistral", None, "[THINK]Hm.[/THINK]Yes.", [("thinks", "Hm."), "Yes."]),
    ("seed_oss", True, "Hm.</seed:think>Yes.", [("thinks", "Hm."), "Yes."]),
]
