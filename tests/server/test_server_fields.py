"""Every field of vLLM 0.33.0's requests is enforced, accepted with a reason, or refused by name."""

from typing import Any

import pytest

from octavo.server import fields
from octavo.server.body import parse_object
from octavo.server.errors import ApiError

CHAT = """messages model frequency_penalty logit_bias logprobs top_logprobs max_tokens max_completion_tokens n
presence_penalty response_format seed stop stream stream_options temperature top_p tools tool_choice reasoning_effort
thinking_token_budget include_reasoning parallel_tool_calls user use_beam_search top_k min_p repetition_penalty
watermarking length_penalty stop_token_ids include_stop_str_in_output ignore_eos min_tokens skip_special_tokens
spaces_between_special_tokens truncate_prompt_tokens truncation_side prompt_logprobs logprob_token_ids
allowed_token_ids bad_words echo add_generation_prompt continue_final_message add_special_tokens documents
chat_template chat_template_kwargs media_io_kwargs mm_processor_kwargs structured_outputs priority request_id
session_id return_tokens_as_token_ids return_token_ids return_weight_versions routed_experts_prompt_start
return_token_offsets return_prompt_text mm_payload return_mm_kwargs cache_salt kv_transfer_params ec_transfer_params
vllm_xargs repetition_detection stream_interval"""
COMPLETION = """model prompt echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop stream
stream_options suffix temperature top_p user use_beam_search top_k min_p repetition_penalty watermarking
length_penalty stop_token_ids include_stop_str_in_output ignore_eos min_tokens skip_special_tokens
spaces_between_special_tokens truncate_prompt_tokens truncation_side allowed_token_ids prompt_logprobs
logprob_token_ids bad_words prompt_embeds add_special_tokens response_format structured_outputs priority request_id
session_id return_tokens_as_token_ids return_token_ids return_weight_versions routed_experts_prompt_start
return_token_offsets mm_payload return_mm_kwargs cache_salt kv_transfer_params ec_transfer_params vllm_xargs
repetition_detection thinking_token_budget stream_interval"""
OLDER = "guided_json guided_regex guided_choice guided_grammar guided_decoding_backend guided_whitespace_pattern"
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(("table", "names"), [(fields.CHAT, CHAT), (fields.COMPLETION, COMPLETION)])
def test_every_field_has_exactly_one_place(table: fields.FieldTable, names: str) -> None:
    for name in [*names.split(), *OLDER.split()]:
        places = [name in table.enforced, name in table.inert, name in table.refused]
        assert places.count(True) == 1, name


REFUSED: list[tuple[str, Any]] = [
    ("media_io_kwargs", {"a": 1}),
    ("vllm_xargs", {"a": 1}),
    ("watermarking", 1),
    ("temprature", 0.5),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_cannot_be_enforced_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ApiError, match=name) as caught:
        fields.chat_request({"messages": MESSAGES, name: value})
    assert caught.value.status == 400
    assert caught.value.param == name


NEUTRAL: list[tuple[str, Any]] = [
    ("response_format", {"type": "text"}),
    ("tools", []),
    ("tool_choice", "none"),
    ("tool_choice", "auto"),
    ("parallel_tool_calls", False),
    ("user", "me"),
    ("metadata", {"a": "b"}),
    ("store", True),
    ("service_tier", "flex"),
    ("best_of", 1),
    ("length_penalty", 1),
    ("guided_json", None),
    ("stop", None),
    ("temperature", None),
    ("n", None),
    ("logit_bias", None),
    ("max_tokens", None),
]


@pytest.mark.parametrize(("name", "value"), NEUTRAL)
def test_what_asks_for_nothing_is_accepted(name: str, value: Any) -> None:
    assert fields.chat_request({"messages": MESSAGES, name: value}).n == 1


WRONG: list[tuple[str, Any]] = [
    ("n", True),
    ("n", 1.5),
    ("n", "2"),
    ("n", 2**40),
    ("temperature", "0.5"),
    ("temperature", True),
    ("temperature", []),
    ("top_k", 0.5),
    ("seed", 2**63),
    ("seed", -(2**63) - 1),
    ("stop", [1]),
    ("stop", {"a": 1}),
    ("stop_token_ids", ["a"]),
    ("stop_token_ids", [True]),
    ("logit_bias", {"1": "x"}),
    ("logit_bias", [1]),
    ("stream", 1),
    ("max_tokens", -1),
    ("max_tokens", "10"),
    ("min_tokens", -1),
    ("messages", "Hi"),
    ("messages", ["Hi"]),
    ("stream_options", {"include_usage": 1}),
    ("stream_options", {"unknown": True}),
    ("request_id", ""),
    ("request_id", "x" * 257),
    ("chat_template_kwargs", []),
    ("priority", 2**31),
    ("logprobs", 3),
    ("best_of", "2"),
    ("stream_interval", 1.5),
    ("truncation_side", "middle"),
    ("repetition_detection", {"min_count": "2"}),
    ("repetition_detection", {"unknown": 1}),
    ("timeout", "1"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_type_is_named(name: str, value: Any) -> None:
    with pytest.raises(ApiError, match=name) as caught:
        fields.chat_request({"messages": MESSAGES, name: value})
    assert (caught.value.status, caught.value.param) == (400, name)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ApiError, match="messages") as caught:
        fields.chat_request({"model": "m"})
    assert caught.value.param == "messages"


def test_extra_body_is_part_of_the_body() -> None:
    body = parse_object(b'{"messages": [], "extra_body": {"top_k": 5, "guided_json": {}}}')
    assert body == {"messages": [], "top_k": 5, "guided_json": {}}
    assert fields.chat_request(body).guided_json == {}
    with pytest.raises(ApiError, match="top_k"):
        parse_object(b'{"top_k": 4, "extra_body": {"top_k": 5}}')
    with pytest.raises(ApiError, match="extra_body"):
        parse_object(b'{"extra_body": 5}')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": -Infinity}',
        b'{"temperature": 1e999}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"a":' * 100_000,
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"n": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_object(body)
    assert caught.value.status == 400
