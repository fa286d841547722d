"""Request value > generation_config.json > default; and what is refused before it reaches the engine."""

from typing import Any

import pytest

from octavo.server import fields
from octavo.server.errors import ApiError
from octavo.server.sampling import MAX_STOP_STRINGS, Resolved, SamplingDefaults, SamplingResolver

MESSAGES = [{"role": "user", "content": "Hi"}]


def resolver(config: dict[str, Any] | None = None) -> SamplingResolver:
    return SamplingResolver(SamplingDefaults.from_generation_config(config or {}), vocab_size=1000, max_logprobs=20)


def chat(config: dict[str, Any] | None = None, **given: Any) -> Resolved:
    return resolver(config).chat(fields.chat_request({"messages": MESSAGES, **given}))


def completion(config: dict[str, Any] | None = None, **given: Any) -> Resolved:
    return resolver(config).completion(fields.completion_request({"prompt": "Hi", **given}))


def test_the_generation_config_gives_defaults() -> None:
    config = {
        "temperature": 0.6,
        "top_k": 50,
        "top_p": None,
        "max_new_tokens": 99,
        "eos_token_id": 2,
        "do_sample": True,
    }
    defaults = SamplingDefaults.from_generation_config(config)
    assert defaults == SamplingDefaults(temperature=0.6, top_k=50, max_new_tokens=99)


def test_max_tokens() -> None:
    assert (chat().max_tokens, chat().clamp) == (None, True)
    assert (chat(max_tokens=5).max_tokens, chat(max_tokens=5).clamp) == (5, False)
    assert chat(max_tokens=5, max_completion_tokens=7).max_tokens == 7
    assert chat(max_tokens=5, max_completion_tokens=None).max_tokens == 5
    assert (chat({"max_new_tokens": 99}).max_tokens, chat({"max_new_tokens": 99}).clamp) == (99, True)
    assert (completion().max_tokens, completion().clamp) == (16, True)
    assert completion(max_tokens=None).max_tokens is None
    assert (completion(max_tokens=3).max_tokens, completion(max_tokens=3).clamp) == (3, False)


REFUSED: list[tuple[str, Any]] = [
    ("n", 0),
    ("n", -1),
    ("n", 129),
    ("n", 1_000_000),
    ("temperature", -0.1),
    ("top_p", 0),
    ("top_p", 1.1),
    ("top_p", -1),
    ("top_k", -5),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("presence_penalty", 2.1),
    ("presence_penalty", -2.1),
    ("frequency_penalty", 2.1),
    ("repetition_penalty", 0),
    ("repetition_penalty", -1),
    ("temperature", 1e300),
    ("max_tokens", 0),
    ("min_tokens", 100),
    ("stop", ""),
    ("stop", ["a", ""]),
    ("stop", ["x"] * (MAX_STOP_STRINGS + 1)),
    ("stop", ["x"] * 100_000),
    ("stop", "x" * (1 << 20)),
    ("stop_token_ids", [1000]),
    ("stop_token_ids", [-1]),
    ("logit_bias", {"1000": 1.0}),
    ("logit_bias", {"-1": 1.0}),
    ("logit_bias", {"one": 1.0}),
    ("logit_bias", {"1.5": 1.0}),
    ("logit_bias", {"9" * 5000: 1.0}),
    ("logit_bias", {"\u0661": 1.0}),
    ("best_of", 129),
    ("best_of", 0),
    ("stream_interval", 0),
    ("stream_interval", -1),
    ("truncate_prompt_tokens", 0),
    ("truncate_prompt_tokens", -2),
    ("repetition_detection", {"max_pattern_size": 3}),
    ("repetition_detection", {"max_pattern_size": 1 << 40, "min_count": 2}),
    ("top_logprobs", 21),
    ("top_logprobs", -1),
    ("top_logprobs", 1_000_000_000),
]


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda value: repr(value)[:24])
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ApiError, match=name) as caught:
        chat(**{"max_tokens": 10, "logprobs": True, name: value})
    assert (caught.value.status, caught.value.param) == (400, name)


def test_what_a_completion_refuses() -> None:
    for given in ({"logprobs": 21}, {"logprobs": -1}, {"logprobs": 1, "echo": True, "stream": True}):
        with pytest.raises(ApiError, match="logprobs"):
            completion(**given)
    for given in ({"prompt_logprobs": 21}, {"prompt_logprobs": -1}, {"prompt_logprobs": 0, "stream": True}):
        for ask in (chat, completion):
            with pytest.raises(ApiError, match="prompt_logprobs"):
                ask(**given)
    with pytest.raises(ApiError, match="max_tokens"):
        completion(max_tokens=0)
    with pytest.raises(ApiError, match="top_logprobs"):
        chat(top_logprobs=2)


def test_the_best_of_several_is_not_streamed() -> None:
    with pytest.raises(ApiError, match="best_of"):
        chat(best_of=2, stream=True)
    chat(best_of=2, n=2, stream=True)


def test_what_is_accepted() -> None:
    chat(best_of=3, truncate_prompt_tokens=-1, truncation_side="right", stream_interval=7, repetition_detection={})
    chat(top_k=-1, seed=-1, stop="END", n=128, temperature=0, logit_bias={"5": -100, "7": 3.5})
    chat(seed=-(2**63), stop=["a"] * MAX_STOP_STRINGS, stop_token_ids=[0, 999], logprobs=True, top_logprobs=20)
    completion(logprobs=0, top_p=1, min_p=1, presence_penalty=-2, repetition_penalty=0.5, ignore_eos=True)
