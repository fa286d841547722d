"""Steps planned while the one before them runs, seen from Python: the loop that a device with its own memory turns."""

from collections.abc import Callable

import numpy as np
from null_pair import EOS, Pair, greedy

from octavo._core import Delta, Plan


class LateDevice:
    """Runs a step only when the next one is planned, and knows what it sampled last for each row.

    The next token is one more than the last one seen, from 2 to 6 and then around.
    """

    def __init__(self, pair: Pair, num_rows: int) -> None:
        self._arenas = pair.backend._arenas
        self._last = np.full(num_rows, -1)
        self.num_unknown = 0

    def run(self, plan: Plan) -> None:
        arena = self._arenas[plan.arena]
        inputs = arena["input_ids"][: plan.num_tokens].astype(np.int64)
        unknown = inputs < 0
        inputs[unknown] = self._last[-1 - inputs[unknown]]
        assert (inputs >= 0).all()
        self.num_unknown += int(unknown.sum())
        sampled = 2 + (inputs[arena["logits_index"][: plan.num_samples]] - 1) % 5
        arena["sampled"][: plan.num_samples] = sampled
        self._last[arena["sample_row"][: plan.num_samples]] = sampled


def turn_until_done(pair: Pair, device: LateDevice) -> None:
    running: Plan | None = None
    while pair.frontend.num_open or running is not None:
        planned = pair.engine.plan(0.0 if running is not None else 0.01)
        if running is not None:
            device.run(running)
            pair.engine.commit(running.epoch)
            pair.engine.check_integrity()
        running = planned
        pair.events += pair.frontend.drain()


def test_answers_are_those_of_steps_one_by_one(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(async_decode=True)
    device = LateDevice(pair, num_rows=8)
    plain = pair.frontend.submit([2, 3], greedy(9))
    short = pair.frontend.submit([5], greedy(1))
    stopped = pair.frontend.submit([4], greedy(20, stop_token_ids=[3]))
    on_host = pair.frontend.submit([6], greedy(4, logit_bias=[(0, 0.0)]))
    forked = pair.frontend.submit([2], greedy(3, n=2))
    turn_until_done(pair, device)
    assert pair.tokens(plain) == [4, 5, 6, 2, 3, 4, 5, 6, 2]
    assert pair.tokens(short) == [6]
    assert pair.tokens(stopped) == [5, 6, 2, 3]
    assert pair.tokens(on_host) == [2, 3, 4, 5]
    assert [pair.tokens(forked, index) for index in (0, 1)] == [[3, 4, 5]] * 2
    last = pair.last(stopped)
    assert isinstance(last, Delta)
    assert last.finish_reason == "stop"
    # Ahead were all but the first token of the first; of the third three, and a void one; of each choice the last.
    assert device.num_unknown == 8 + 4 + 2
    stats = pair.engine.stats
    assert (stats.num_running, stats.num_used_blocks, stats.generation_tokens) == (0, 0, 9 + 1 + 4 + 4 + 6)


def test_an_end_of_sequence_is_seen_a_step_late(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(async_decode=True, token=EOS)
    request = pair.frontend.submit([2, 3], greedy(9))
    while (first := pair.engine.plan(0.01)) is None:
        pass
    second = pair.engine.plan(0.0)
    assert second is not None
    assert pair.backend._arenas[second.arena]["input_ids"][0] == -1
    pair.engine.commit(first.epoch)
    assert pair.engine.plan(0.0) is None
    assert pair.engine.stats.num_used_blocks == 1
    pair.engine.commit(second.epoch)
    assert pair.engine.stats.num_used_blocks == 0
    pair.run()
    assert pair.tokens(request) == [EOS]
