"""The step contract: plan, run, commit."""

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
from null_pair import DEADLINE, TOKEN, Pair, greedy

from octavo._core import Endpoint, Engine, Failed
from octavo.backends.base import aligned_bytes
from octavo.engine.loop import EngineLoop


def test_a_stale_epoch_is_an_error(pair: Pair) -> None:
    pair.frontend.submit([2, 3], greedy(3))
    while (plan := pair.engine.plan(1.0)) is None:
        pass
    with pytest.raises(ValueError, match="epoch"):
        pair.engine.commit(plan.epoch + 1)
    pair.backend.execute(plan)
    pair.engine.commit(plan.epoch)
    with pytest.raises(ValueError, match="epoch"):
        pair.engine.commit(plan.epoch)
    pair.run()


def test_a_step_that_breaks_fails_its_requests_and_the_engine_goes_on(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = pair.frontend.submit([2, 3], greedy(3))

    def raises(plan: Any) -> None:
        raise ArithmeticError("a wrong sum")

    with monkeypatch.context() as patch:
        patch.setattr(pair.backend, "execute", raises)
        pair.run()
    failed = pair.last(broken)
    assert isinstance(failed, Failed)
    assert failed.reason == "internal"
    assert "a wrong sum" in failed.message
    after = pair.frontend.submit([2, 3], greedy(3))
    pair.run()
    assert pair.tokens(after) == [TOKEN] * 3


def test_the_columns_describe_the_step(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    pair.frontend.submit([2, 3, 4], greedy(3))
    while (plan := pair.engine.plan(1.0)) is None:
        pass
    arena = pair.backend._arenas[plan.arena]
    assert (plan.num_reqs, plan.num_tokens, plan.num_samples) == (1, 3, 1)
    assert arena["input_ids"][:3].tolist() == [2, 3, 4]
    assert arena["positions"][:3].tolist() == [0, 1, 2]
    assert arena["query_start"][:2].tolist() == [0, 3]
    assert arena["seq_len"][0] == 3
    assert arena["logits_index"][0] == 2
    assert plan.max_query_len == 3
    assert plan.max_context_len == 3
    pair.backend.execute(plan)
    pair.engine.commit(plan.epoch)
    pair.run()


def test_python_does_the_same_work_for_one_request_and_for_sixty_four(make_pair: Callable[..., Pair]) -> None:
    counts = []
    for batch in (1, 64):
        limits = {"max_num_seqs": 64, "max_num_batched_tokens": 512, "max_model_len": 4096}
        pair = make_pair(num_blocks=64 * 256, block_size=16, **limits)
        requests = [pair.frontend.submit([2, 3, 4], greedy(None)) for _ in range(batch)]
        while len(pair.events) < batch:  # no step before all have come: none may end before the last begins
            assert pair.frontend.wait(DEADLINE)
            pair.events += pair.frontend.drain()
        pair.run(lambda p, batch=batch: p.engine.stats.num_running == batch)
        counts.append(calls_of_one_turn(pair))
        for request in requests:
            pair.frontend.abort(request)
        pair.run()
    assert counts[0]["python"] >= 2
    assert counts[0] == counts[1]


def calls_of_one_turn(pair: Pair) -> Counter[str]:
    counter: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            counter["python"] += 1
        elif event == "c_call":
            counter["native"] += 1

    loop = EngineLoop(pair.engine, pair.backend)
    sys.setprofile(profile)
    try:
        assert loop.turn(timeout=1.0)
    finally:
        sys.setprofile(None)
    return counter


LIMITS: dict[str, Any] = {
    "num_blocks": 8,
    "block_size": 4,
    "max_num_seqs": 2,
    "max_num_batched_tokens": 8,
    "max_model_len": 16,
    "vocab_size": 8,
    "eos_token_ids": [1],
}


def engine(**changes: Any) -> Engine:
    return Engine(Endpoint.pair()[1], **{**LIMITS, **changes})


@pytest.mark.parametrize(
    "changes",
    [{"num_blocks": 0}, {"block_size": 0}, {"max_num_batched_tokens": 1}, {"vocab_size": 0}, {"policy": "lifo"}],
)
def test_limits_that_contradict_each_other_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        engine(**changes)


def test_an_arena_must_be_writable_aligned_and_of_the_right_size() -> None:
    made = engine()
    size = made.arena_bytes
    good = aligned_bytes(size)
    readonly = aligned_bytes(size)
    readonly.flags.writeable = False
    for bad in (good[1:], aligned_bytes(size + 64)[8 : size + 8], readonly, good.view(np.int32), good[::2]):
        with pytest.raises(ValueError, match="buffer"):
            made.bind_arena(0, bad)
    made.bind_arena(0, good)
    with pytest.raises(ValueError, match="bound already"):
        made.bind_arena(0, aligned_bytes(size))
    with pytest.raises(ValueError, match="no arena"):
        made.bind_arena(99, aligned_bytes(size))
    with pytest.raises(RuntimeError, match="not bound"):
        made.plan(0.0)


def test_an_endpoint_is_used_up() -> None:
    endpoint = Endpoint.pair()[1]
    Engine(endpoint, **LIMITS)
    with pytest.raises(ValueError, match="given away"):
        Engine(endpoint, **LIMITS)
