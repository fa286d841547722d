"""sampling.cu and count_tokens.cu on the CPU, against the CPU's own sampler, and against plain definitions."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from host import Schedule, schedules
from sampling import MAX_LOGPROBS, NOT_WRITTEN, Array, Case, Device, Request, check, kernels_of, logits_of

PLAIN = (
    Request(seed=1),
    Request(temperature=0.0),
    Request(temperature=0.3, seed=2),
    Request(temperature=4.0, seed=3),
    Request(top_k=1, seed=4),
    Request(top_k=40, seed=5),
    Request(top_k=300, seed=6, temperature=2.0),
    Request(top_p=0.9, seed=7),
    Request(top_p=0.999, seed=8, temperature=3.0),
    Request(top_p=0.01, seed=9),
    Request(min_p=0.2, seed=-10),
    Request(top_k=50, top_p=0.8, min_p=0.02, temperature=1.4, seed=1 << 40),
    Request(top_k=200, min_p=0.3, seed=11),
    Request(top_p=0.7, seed=12, n=3),
)
ASKING = tuple(Request(seed=number, logprobs=count) for number, count in enumerate((None, 0, 1, 5, MAX_LOGPROBS)))
PENALISED = (
    Request(presence_penalty=1.5, seed=1),
    Request(frequency_penalty=-0.7, temperature=0.0),
    Request(repetition_penalty=1.8, top_k=30, seed=2),
    Request(presence_penalty=-0.4, frequency_penalty=0.9, repetition_penalty=0.6, top_p=0.9, seed=3, logprobs=3),
    Request(seed=4, logprobs=2),
)
SHORT = {
    "plain": Case(PLAIN),
    "bf16": Case(PLAIN + ASKING, type="bf16", vocab_size=640),
    "ties": Case(PLAIN + ASKING, levels=2),
    "all-equal": Case(PLAIN + ASKING, spread=0.0),
    "last-bits": Case(PLAIN + ASKING, spread=1e-3, offset=8.0),
    "half-of-equals": Case((Request(top_p=0.5, n=8),), vocab_size=8, spread=0.0, steps=5),
    "flat-tail": Case((Request(top_p=0.9, n=16),), vocab_size=1500, spread=0.1, outlier=8.7),
    "holes": Case(PLAIN + ASKING, holes=True),
    "log-probabilities": Case(ASKING, vocab_size=1237),
    "penalties": Case(PENALISED, vocab_size=60, steps=20),
    "penalties-holes": Case(PENALISED, vocab_size=45, steps=10, holes=True, levels=3),
    "tiny": Case(PLAIN[:7], vocab_size=7, grid=20),
    "one-a-lane": Case(PLAIN, vocab_size=32),
    "one-more": Case(PLAIN, vocab_size=33),
    "peaked": Case(PLAIN, vocab_size=900, spread=12.0),
    "long": Case(PLAIN[5:10], vocab_size=9001, steps=1),
    "whole-block": Case(PLAIN[3:8] + ASKING[3:], vocab_size=3001, steps=1, threads=512),
}


@pytest.mark.parametrize("name", SHORT)
def test_the_tokens_are_those_of_the_cpu_sampler(name: str) -> None:
    for schedule in islice(schedules(len(name)), 3):
        check(SHORT[name], schedule)


def test_the_same_bits_come_out_in_every_order() -> None:
    requests = PLAIN + ASKING + PENALISED
    case = Case(requests, vocab_size=301)
    stored, _ = logits_of(case, [(row,) for row in range(len(requests))])

    def bits(schedule: Schedule) -> bytes:
        device = Device(case, len(requests), schedule=schedule)
        device.count([(row, True, [row, 3], [row + 1]) for row in range(len(requests))])
        columns = device.sample(stored, [(row, request, 0) for row, request in enumerate(requests)], 0)
        return b"".join(column.tobytes() for column in columns.values())

    assert len({bits(schedule) for schedule in islice(schedules(), 12)}) == 1


def drawn(logits: Array, request: Request, draws: int) -> Counter[int]:
    """Of one row of logits; every draw is another choice of a request at another step."""
    case = Case((request,), vocab_size=len(logits))
    device = Device(case, draws)
    samples = [(number, request, number % 10) for number in range(draws)]
    steps = [number // 10 for number in range(draws)]
    stored = np.broadcast_to(logits.astype(np.float32), (draws, len(logits)))
    return Counter(device.sample(stored, samples, steps)["sampled"].tolist())


def probabilities(logits: Array, request: Request) -> Array:
    """By the definition, with a sort."""
    weights = np.exp((logits - logits.max()) / request.temperature)
    weights[weights < request.min_p] = 0
    if request.top_k:
        weights[weights < np.sort(weights)[-request.top_k]] = 0
    order = np.argsort(-weights, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    weights[order[before >= request.top_p * weights.sum()]] = 0
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize(
    "request_",
    [
        Request(seed=1),
        Request(seed=2, top_k=9, temperature=2.0),
        Request(seed=3, top_p=0.8),
        Request(seed=4, min_p=0.1),
    ],
    ids=["all", "top_k", "top_p", "min_p"],
)
def test_tokens_are_drawn_as_often_as_they_are_probable(request_: Request) -> None:
    logits = np.random.default_rng(request_.seed).standard_normal(20) * 1.5
    draws = 3000
    counts, expected = drawn(logits, request_, draws), probabilities(logits, request_) * draws
    assert all(expected[token] > 0 for token in counts)
    common = expected >= 8
    observed = np.array([counts[token] for token in range(len(logits))])
    chi_square = ((observed - expected) ** 2 / np.where(common, expected, np.inf)).sum()
    degrees = common.sum() - 1
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5


def test_of_equal_tokens_top_k_keeps_all_and_top_p_the_first() -> None:
    logits = np.array([0, 3, 1, 3, 3, 3, 2, 3, -1, 3, 3, 3], np.float64)
    assert set(drawn(logits, Request(top_k=2), 200)) == {1, 3, 4, 5, 7, 9, 10, 11}
    only_equals = np.where(logits == 3, 3, -np.inf)
    assert set(drawn(only_equals, Request(top_p=0.5), 200)) == {1, 3, 4, 5}
    assert set(drawn(only_equals, Request(top_p=0.51), 200)) == {1, 3, 4, 5, 7}
    assert set(drawn(only_equals, Request(top_p=1e-30), 50)) == {1}
    assert set(drawn(logits, Request(temperature=0.0), 3)) == {1}
    assert set(drawn(np.array([-1, -0.0, 0.0]), Request(temperature=0.0), 3)) == {1}


def test_a_row_without_a_possible_token_says_so() -> None:
    case = Case((Request(),), vocab_size=70)
    device = Device(case, 3)
    logits = np.full((3, 70), -np.inf, np.float32)
    logits[1, 40] = np.nan
    logits[2, [30, 60]] = np.inf
    requests = (Request(logprobs=2), Request(temperature=0.0), Request(temperature=9.0, logprobs=4))
    columns = device.sample(logits, [(row, request, 0) for row, request in enumerate(requests)], 0)
    assert columns["sampled"].tolist() == [-1, -1, 30]
    assert device.last_token.tolist() == [0, 0, 30]
    assert columns["sampled_rank"].tolist() == [0, 0, 1]
    assert columns["sampled_logprob"].tolist() == [0, 0, 0]
    assert columns["top_ids"][0].tolist() == [-1] * MAX_LOGPROBS
    assert (columns["top_logprobs"][0] == -np.inf).all()
    assert (columns["top_ids"][1] == NOT_WRITTEN).all()
    assert columns["top_ids"][2].tolist() == [30, 60] + [-1] * (MAX_LOGPROBS - 2)
    assert columns["top_logprobs"][2, :3].tolist() == [0, 0, -np.inf]


def test_samples_of_the_host_and_behind_the_count_are_left_alone() -> None:
    case = Case((Request(logprobs=1, presence_penalty=1.0),), vocab_size=50)
    device = Device(case, 6)
    device.count([(row, True, [], []) for row in range(6)])
    stored, _ = logits_of(case, [(1,), (2,), (3,), (4,)])
    samples = [(row, case.requests[0], 0) for row in (4, 2, 0, 5)]
    columns = device.sample(stored, samples, 0, host_sample=[0, 1, 0, 0], num_samples=3)
    for column in columns.values():
        left_alone = (column.reshape(4, -1) == NOT_WRITTEN).all(1)
        assert left_alone.tolist() == [False, True, False, True]
    assert (device.last_token == NOT_WRITTEN).tolist() == [False, True, True, True, False, True]
    assert device.counts.sum(1).tolist() == [1, 0, 0, 0, 1, 0]


def test_tokens_of_prompt_and_output_are_kept_apart_and_counted() -> None:
    for schedule in islice(schedules(), 4):
        case = Case((Request(),), vocab_size=77)
        device = Device(case, 4, schedule=schedule)
        before = device.counts[2].copy(), device.prompts[2].copy()
        prompt, output = [3, 76, 3, 500, -1], [5, 76, 5] * 100
        device.count([(3, True, prompt, output), (0, True, [], [7] * 70000), (1, True, [1] * 300, [])])
        device.count([(1, False, [2], [2, 9])])
        assert (device.counts[3] == np.bincount(output, minlength=77)).all()
        assert device.counts[0, 7] == 65535
        assert np.flatnonzero(device.counts[1]).tolist() == [2, 9]
        bits = np.unpackbits(device.prompts.view(np.uint8), axis=1, bitorder="little")
        assert [np.flatnonzero(row).tolist() for row in bits[[3, 0, 1]]] == [[3, 76], [], [1, 2]]
        assert (device.counts[2] == before[0]).all()
        assert (device.prompts[2] == before[1]).all()


def test_a_count_stays_at_its_most() -> None:
    request = Request(frequency_penalty=1e-4, temperature=0.0)
    device = Device(Case((request,), vocab_size=3), 1)
    device.count([(0, True, [], [1] * 65535)])
    for step in range(2):
        assert device.sample(np.array([[0, 90, 1]], np.float32), [(0, request, 0)], step)["sampled"] == 1
    assert device.counts[0].tolist() == [0, 65535, 0]


def test_the_kernel_says_how_many_log_probabilities_it_can_give() -> None:
    kernels = kernels_of("sampling.cu", "fp32", 512)
    assert kernels.shape("sample")[0] == 512
    assert kernels.constant("sampling_max_logprobs") == 32 >= MAX_LOGPROBS  # octavo-core leaves more to the host


@pytest.mark.cuda_host_all
def test_all_cases() -> None:
    random = np.random.default_rng(0)

    def request(seed: int) -> Request:
        return Request(
            temperature=float(random.choice([0.0, 0.2, 0.8, 1.0, 1.0, 1.5, 5.0])),
            top_k=int(random.choice([0, 0, 1, 2, 20, 50, 129, 600])),
            top_p=float(random.choice([1.0, 1.0, 0.99, 0.95, 0.5, 0.1])),
            min_p=float(random.choice([0.0, 0.0, 0.0, 0.01, 0.3])),
            presence_penalty=float(random.choice([0.0, 0.0, 0.0, 1.0])),
            frequency_penalty=float(random.choice([0.0, 0.0, 0.0, 0.5])),
            repetition_penalty=float(random.choice([1.0, 1.0, 1.0, 1.3])),
            seed=seed,
            n=int(random.choice([1, 1, 1, 2])),
            logprobs=[None, None, 0, 4][random.integers(4)],
        )

    num_tokens = 0
    for number, schedule in zip(range(300), schedules(), strict=False):
        case = Case(
            tuple(request(number * 100 + index) for index in range(16)),
            vocab_size=int(random.integers(16, 2000)),
            type=("fp32", "bf16", "fp16")[number % 3],
            spread=float(random.choice([0.3, 2.0, 6.0])),
            levels=int(random.choice([0, 0, 1, 4])),
            holes=number % 5 == 0,
            seed=number,
        )
        check(case, schedule)
        num_tokens += case.steps * sum(each.n for each in case.requests)
    print(f"{num_tokens} tokens were the CPU's")
