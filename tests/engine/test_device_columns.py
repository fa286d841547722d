"""What a GPU reads of a step: counts, lists of work, how each sample is drawn; and samples that are left to the CPU."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from null_pair import VOCABULARY, Pair, greedy

from octavo._core import CpuKernels, DeviceWork, Plan, Sampling
from octavo.backends.base import Arena

NUM_HEADS, NUM_KV_HEADS, TILE_ROWS = 8, 2, 16
GROUP = NUM_HEADS // NUM_KV_HEADS
COUNTS = (
    *("reqs", "tokens", "samples", "table_deltas", "block_copies"),
    *("decode_items", "prefill_items", "merges", "histories"),
)


def device_work(**changes: int) -> DeviceWork:
    values = {"decode_units": 40, "prefill_units": 40, "prefill_tile_rows": TILE_ROWS}
    return DeviceWork(**{"num_heads": NUM_HEADS, "num_kv_heads": NUM_KV_HEADS, **values, **changes})


@pytest.fixture
def gpu_pair(make_pair: Callable[..., Pair]) -> Pair:
    limits = {"num_blocks": 256, "block_size": 16, "max_model_len": 2048, "max_num_batched_tokens": 1024}
    return make_pair(device_work=device_work(), **limits)


def steps(pair: Pair) -> Iterator[tuple[Plan, Arena]]:
    """The steps until every request has ended, each while it is in flight."""
    while pair.frontend.num_open:
        plan = pair.engine.plan(0.01)
        if plan is not None:
            pair.backend.execute(plan)
            yield plan, pair.backend._arenas[plan.arena]
            pair.engine.commit(plan.epoch)
        pair.frontend.drain()


def keys_seen(arena: Arena, counts: dict[str, int], num_slots: int) -> tuple[np.ndarray[Any, Any], int]:
    """How often each row of the step (token, head of a group) met each key, and how many rows were merged of parts.

    An item's rows meet the keys up to their own position; what they met is in the output, or in a slot until the merge.
    """
    longest = int(arena["seq_len"][: counts["reqs"]].max())
    start = arena["query_start"]
    output = np.zeros((counts["tokens"], GROUP, longest), int)
    slots = np.zeros((num_slots, GROUP, longest), int)
    written = np.zeros((num_slots, GROUP), bool)
    for kind in ("decode", "prefill"):
        for item in range(counts[f"{kind}_items"]):
            entry, slot = arena[f"{kind}_entry"][item], arena[f"{kind}_slot"][item]
            first_row, num_rows = 0, GROUP
            if kind == "prefill":
                first_row, num_rows = arena["prefill_first_row"][item], TILE_ROWS
            num_tokens = start[entry + 1] - start[entry]
            for row in range(first_row, min(first_row + num_rows, num_tokens * GROUP)):
                token, head = divmod(row, GROUP)
                position = arena["positions"][start[entry] + token]
                keys = slice(arena[f"{kind}_kv_begin"][item], max(0, min(arena[f"{kind}_kv_end"][item], position + 1)))
                if slot < 0:
                    output[start[entry] + token, head, keys] += 1
                else:
                    assert not written[slot + token, head]
                    written[slot + token, head] = True
                    slots[slot + token, head, keys] += 1
    for merge in range(counts["merges"]):
        parts = arena["merge_first_slot"][merge] + arena["merge_slot_stride"][merge] * np.arange(
            arena["merge_num_slots"][merge]
        )
        assert written[parts].all()
        output[arena["merge_token"][merge]] += slots[parts].sum(axis=0)
    return output, counts["merges"]


def test_the_lists_give_each_row_the_keys_up_to_its_own_once(gpu_pair: Pair) -> None:
    prompt = [2, 3, 4, 5, 6, 7] * 100
    merged = 0
    for length, own in ((600, [2]), (500, [3, 3, 3, 3, 3]), (3, [7])):
        gpu_pair.frontend.submit(prompt[:length] + own, greedy(3))
    for plan, arena in steps(gpu_pair):
        counts = dict(zip(COUNTS, arena["counts"].tolist(), strict=True))
        scalars = ("reqs", "tokens", "samples", "table_deltas", "block_copies", "histories")
        assert [counts[name] for name in scalars] == [getattr(plan, f"num_{name}") for name in scalars]
        seen, num_merges = keys_seen(arena, counts, gpu_pair.engine.max_attention_slots)
        keys = np.arange(seen.shape[2])
        expected = keys <= arena["positions"][: plan.num_tokens, None]
        np.testing.assert_array_equal(seen, np.broadcast_to(expected[:, None], seen.shape))
        merged += num_merges
    assert merged > 0


def test_the_input_is_one_piece_with_the_counts_in_front(gpu_pair: Pair) -> None:
    layout = gpu_pair.engine.arena_layout()
    assert layout[0] == ("counts", "int32", 0, len(COUNTS))
    outputs = [name for name, _, offset, _ in layout if offset >= gpu_pair.engine.arena_input_bytes]
    assert outputs == ["sampled", "sampled_logprob", "sampled_rank", "top_ids", "top_logprobs"]


def test_without_a_gpu_the_arena_has_no_such_columns(make_pair: Callable[..., Pair]) -> None:
    engine = make_pair().engine
    names = [name for name, _, _, _ in engine.arena_layout()]
    assert names[0] == "input_ids"
    assert not {"counts", "merge_token", "temperature"} & set(names)
    assert engine.max_attention_slots == 0


def test_a_gpu_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="num_kv_heads"):
        device_work(num_kv_heads=3)
    with pytest.raises(ValueError, match="decode_units"):
        device_work(decode_units=0)


ASKED: list[tuple[dict[str, Any], bool]] = [
    ({"temperature": 0.0}, False),
    ({"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 2**64 - 2}, False),
    ({"presence_penalty": 0.5}, False),
    ({"frequency_penalty": 0.5}, False),
    ({"repetition_penalty": 1.5}, False),
    ({"min_tokens": 39}, True),
    ({"logit_bias": [(3, 1.0)]}, True),
    ({"logprobs": 2}, False),
]


@pytest.fixture
def sampling_step(make_pair: Callable[..., Pair]) -> Iterator[tuple[Pair, Plan, Arena]]:
    """A step in flight in which each of ASKED samples, in order."""
    pair = make_pair(device_work=device_work())
    requests = [pair.frontend.submit([2, 3], Sampling(max_tokens=40, **sampling)) for sampling, _ in ASKED]
    pair.run(lambda pair: pair.engine.stats.num_running == len(ASKED))
    plan = pair.engine.plan(1.0)
    assert plan is not None
    assert plan.num_samples == len(ASKED)
    yield pair, plan, pair.backend._arenas[plan.arena]
    pair.backend.execute(plan)
    pair.engine.commit(plan.epoch)
    for request in requests:
        pair.frontend.abort(request)
    pair.run()


def test_the_columns_say_how_each_sample_is_drawn(sampling_step: tuple[Pair, Plan, Arena]) -> None:
    _, plan, arena = sampling_step
    assert arena["host_sample"][: len(ASKED)].tolist() == [int(on_host) for _, on_host in ASKED]
    assert plan.num_host_samples == sum(on_host for _, on_host in ASKED)
    names = ("temperature", "top_k", "top_p", "min_p")
    assert [arena[name][0] for name in names] == [0, 0, 1, 0]
    np.testing.assert_allclose([arena[name][1] for name in names], [0.5, 3, 0.9, 0.1])
    assert arena["seed"][1].astype(np.uint64) == 2**64 - 2
    assert not arena["choice"][: len(ASKED)].any()
    generated = arena["seq_len"][: len(ASKED)] - 2
    assert arena["draw_step"][: len(ASKED)].tolist() == generated.tolist()


OUTPUTS = ("sampled", "sampled_logprob", "sampled_rank", "top_ids", "top_logprobs")


def outputs(arena: Arena) -> dict[str, np.ndarray[Any, Any]]:
    return {name: arena[name].reshape(-1, 20 if name.startswith("top") else 1).copy() for name in OUTPUTS}


def test_some_samples_alone_are_what_they_are_among_all(sampling_step: tuple[Pair, Plan, Arena]) -> None:
    pair, plan, arena = sampling_step
    kernels = CpuKernels(2)
    logits = np.random.default_rng(0).standard_normal((len(ASKED), len(VOCABULARY))).astype(np.float32)
    for name in OUTPUTS:
        arena[name].fill(-7)
    kernels.sample(pair.engine, plan.epoch, logits.copy())
    among_all = outputs(arena)
    for name in OUTPUTS:
        arena[name].fill(-7)
    chosen = np.array([7, 2, 3, 1], np.int32)
    kernels.sample(pair.engine, plan.epoch, logits[chosen], chosen)
    alone = outputs(arena)
    others = np.setdiff1d(np.arange(len(arena["sampled"])), chosen)
    for name in OUTPUTS:
        assert (alone[name][others] == -7).all()
    for name in ("sampled", "sampled_logprob", "sampled_rank"):
        np.testing.assert_array_equal(alone[name][chosen], among_all[name][chosen])
    for name in ("top_ids", "top_logprobs"):
        np.testing.assert_array_equal(alone[name][7, :2], among_all[name][7, :2])


def test_indices_that_are_no_samples_are_refused(sampling_step: tuple[Pair, Plan, Arena]) -> None:
    pair, plan, _ = sampling_step
    kernels, logits = CpuKernels(1), np.zeros((1, len(VOCABULARY)), np.float32)
    for wrong in (-1, len(ASKED)):
        with pytest.raises(ValueError, match="samples"):
            kernels.sample(pair.engine, plan.epoch, logits, np.array([wrong], np.int32))
    with pytest.raises(ValueError, match="expected 2 rows"):
        kernels.sample(pair.engine, plan.epoch, logits, np.array([0, 1], np.int32))
    kernels.sample(pair.engine, plan.epoch, logits[:0], np.zeros(0, np.int32))
