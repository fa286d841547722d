"""The life of a request, from submit to its last event, on the null backend."""

from collections.abc import Callable
from typing import Any

import pytest
from null_pair import EOS, TOKEN, Pair, greedy, word_tokenizer

from octavo._core import Accepted, Delta, Failed, Sampling


def test_a_request_is_accepted_then_streams_its_tokens_then_ends(pair: Pair) -> None:
    request = pair.frontend.submit("a b c", greedy(6))
    pair.run()
    first, *deltas = pair.of(request)
    assert isinstance(first, Accepted)
    assert first.prompt_token_ids == [2, 3, 4]
    assert first.num_prompt_tokens == 3
    assert pair.tokens(request) == [TOKEN] * 6
    assert pair.text(request) == "xy" * 6
    last = deltas[-1]
    assert isinstance(last, Delta)
    assert last.finish_reason == "length"
    assert last.timings is not None
    assert last.timings.arrival <= last.timings.scheduled <= last.timings.first_token <= last.timings.last_token
    assert all(isinstance(delta, Delta) and delta.finish_reason is None for delta in deltas[:-1])


def test_token_ids_need_no_tokenizer_and_give_no_text(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    request = pair.frontend.submit([2, 3], greedy(3))
    pair.run()
    assert pair.tokens(request) == [TOKEN] * 3
    assert pair.text(request) == ""


def test_text_without_a_tokenizer_is_refused(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    request = pair.frontend.submit("a", greedy())
    pair.run()
    failed = pair.last(request)
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.param) == ("invalid", "prompt")


def test_every_choice_of_a_request_streams_and_ends(pair: Pair) -> None:
    request = pair.frontend.submit("a b c a b", greedy(7, n=5))
    pair.run()
    assert [pair.tokens(request, index) for index in range(5)] == [[TOKEN] * 7] * 5
    ends = [event for event in pair.of(request) if isinstance(event, Delta) and event.finish_reason]
    assert sorted(event.index for event in ends) == [0, 1, 2, 3, 4]
    assert pair.frontend.num_open == 0


def test_requests_past_max_num_seqs_wait_and_are_served(pair: Pair) -> None:
    requests = [pair.frontend.submit([2] * (1 + index % 7), greedy(5)) for index in range(40)]
    pair.run()
    assert all(pair.tokens(request) == [TOKEN] * 5 for request in requests)


def test_the_end_of_sequence_token_ends_a_choice(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(tokenizer=word_tokenizer(), token=EOS)
    request = pair.frontend.submit("a", greedy(9))
    pair.run()
    last = pair.last(request)
    assert isinstance(last, Delta)
    assert (last.finish_reason, last.stop_reason) == ("stop", None)
    assert pair.text(request) == ""


def test_ignore_eos_goes_on(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(token=EOS)
    request = pair.frontend.submit([2], greedy(9, ignore_eos=True))
    pair.run()
    assert pair.tokens(request) == [EOS] * 9


def test_a_stop_token_is_named(pair: Pair) -> None:
    request = pair.frontend.submit("a", greedy(9, stop_token_ids=[TOKEN]))
    pair.run()
    last = pair.last(request)
    assert isinstance(last, Delta)
    assert (last.finish_reason, last.stop_reason) == ("stop", TOKEN)


@pytest.mark.parametrize(("include", "text"), [(False, "x"), (True, "xyxy")])
def test_a_stop_string_over_token_edges_cuts_the_text(pair: Pair, include: bool, text: str) -> None:
    request = pair.frontend.submit("a", greedy(50, stop=["yxy"], include_stop_str_in_output=include))
    pair.run()
    last = pair.last(request)
    assert isinstance(last, Delta)
    assert (last.finish_reason, last.stop_reason) == ("stop", "yxy")
    assert pair.text(request) == text


LONG = {"max_model_len": 200_000, "num_blocks": 150_000}
"""So long that an abort, which goes to the engine beside its loop, always comes before the end."""


def test_an_abort_ends_every_choice(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(**LONG)
    request = pair.frontend.submit([2], greedy(None, n=3))
    pair.run(lambda p: any(event.index == 2 for event in p.of(request) if isinstance(event, Delta)))
    pair.frontend.abort(request)
    pair.run()
    ends = [event for event in pair.of(request) if isinstance(event, Delta) and event.finish_reason]
    assert [event.finish_reason for event in ends] == ["abort"] * 3
    assert pair.engine.stats.num_used_blocks == 0


def test_an_abort_of_a_request_that_waits_or_is_unknown(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(max_num_seqs=1, **LONG)
    running = pair.frontend.submit([2], greedy(None))
    waiting = pair.frontend.submit([3], greedy(20))
    pair.run(lambda p: len(p.tokens(running)) >= 2)
    pair.frontend.abort(waiting)
    pair.frontend.abort(1 << 40)
    pair.run(lambda p: any(isinstance(event, Delta) for event in p.of(waiting)))
    last = pair.last(waiting)
    assert isinstance(last, Delta)
    assert last.finish_reason == "abort"
    assert pair.tokens(waiting) == []
    pair.frontend.abort(running)
    pair.run()


def test_a_full_queue_refuses_and_the_others_are_served(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(max_num_seqs=1, max_num_queued_reqs=2)
    requests = [pair.frontend.submit([2, 3], greedy(4)) for _ in range(10)]
    pair.run()
    refused = [event for event in pair.events if isinstance(event, Failed)]
    assert refused
    assert {event.reason for event in refused} == {"queue_full"}
    served = set(requests) - {event.request for event in refused}
    assert len(served) >= 2
    assert all(pair.tokens(request) == [TOKEN] * 4 for request in served)
    assert pair.engine.stats.num_rejected == len(refused)


def test_a_drain_finishes_what_runs_and_closes(pair: Pair) -> None:
    request = pair.frontend.submit("a b", greedy(10))
    pair.run(lambda p: len(p.tokens(request)) >= 1)
    pair.frontend.drain_engine()
    late = pair.frontend.submit("c", greedy(10))
    pair.run(lambda p: p.engine.closed and p.frontend.num_open == 0)
    assert pair.tokens(request) == [TOKEN] * 10
    failed = pair.last(late)
    assert isinstance(failed, Failed)
    assert failed.reason == "draining"


@pytest.mark.parametrize(
    ("prompt", "sampling", "param"),
    [
        ("", greedy(), "prompt"),
        ([], greedy(), "prompt"),
        ([8], greedy(), "prompt"),
        ([2] * 64, greedy(None), "prompt"),
        ([2] * 60, greedy(10), "max_tokens"),
    ],
)
def test_a_bad_request_fails_alone(pair: Pair, prompt: Any, sampling: Sampling, param: str) -> None:
    good = pair.frontend.submit("a", greedy(12))
    bad = pair.frontend.submit(prompt, sampling)
    pair.run()
    failed = pair.last(bad)
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.param) == ("invalid", param)
    assert pair.tokens(good) == [TOKEN] * 12


def test_max_tokens_can_be_cut_to_the_context(pair: Pair) -> None:
    request = pair.frontend.submit([2] * 60, greedy(10), clamp_max_tokens=True)
    pair.run()
    assert pair.tokens(request) == [TOKEN] * 4


def test_a_shared_prefix_is_computed_once_and_salts_keep_apart(pair: Pair) -> None:
    prompt = [2, 3, 4, 5] * 8
    first = pair.frontend.submit(prompt, greedy(2))
    pair.run()
    again = pair.frontend.submit(prompt, greedy(2))
    salted = pair.frontend.submit(prompt, greedy(2), cache_salt="tenant")
    pair.run()
    cached = {}
    for request in (first, again, salted):
        last = pair.last(request)
        assert isinstance(last, Delta)
        cached[request] = last.num_cached_tokens
    assert cached == {first: 0, again: 28, salted: 0}
    pair.frontend.reset_prefix_cache()
    forgotten = pair.frontend.submit(prompt, greedy(2))
    pair.run()
    last = pair.last(forgotten)
    assert isinstance(last, Delta)
    assert last.num_cached_tokens == 0


def test_preempted_requests_finish(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(num_blocks=20, enable_prefix_caching=False)
    requests = [pair.frontend.submit([2, 3, 4], greedy(40)) for _ in range(8)]
    pair.run()
    assert all(pair.tokens(request) == [TOKEN] * 40 for request in requests)
    assert pair.engine.stats.num_preemptions > 0
