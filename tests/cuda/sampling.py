"""Steps of sampling for cuda/sampling.cu and count_tokens.cu, and what the CPU's sampler makes of the same logits.

Case        the requests, their parameters, and what logits they meet
Processor   the CPU's sampler, which chooses within an engine's step
Device      the state and the columns that the kernels have, in guarded memory
check       runs both, step by step
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from host import KERNELS, HostKernels, Schedule, guarded
from narrow import DECODE, ENCODE
from numpy.typing import NDArray

from octavo._core import CpuKernels, Endpoint, Engine, Frontend, Plan, Sampling
from octavo.backends.base import bind_arenas
from octavo.backends.cuda.arguments import CountTokensCall, PenaltyState, SamplingCall

TYPES = {"fp32": "Float32", "bf16": "Bfloat16", "fp16": "Float16"}
NOT_WRITTEN = -7
MAX_LOGPROBS = 20

Array = NDArray[Any]


@dataclass(frozen=True)
class Request:
    """The fields of octavo.SamplingParams that matter here."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    n: int = 1
    logprobs: int | None = None


@dataclass(frozen=True)
class Case:
    requests: tuple[Request, ...]
    vocab_size: int = 501
    type: str = "fp32"
    spread: float = 2.0
    """Standard deviation of the logits."""
    levels: int = 0
    """0: all logits differ; else they are rounded to so many steps a unit, and many are equal."""
    offset: float = 0.0
    """Added to all logits, which may then differ in their last bits only."""
    outlier: float = 0.0
    """Added to one logit of each row: the others then matter only together."""
    holes: bool = False
    """Some logits are NaN, and some minus infinity."""
    steps: int = 3
    grid: int = 3
    threads: int = 128
    seed: int = 0


@cache
def kernels_of(source: str, kind: str, threads: int, folder: Path = KERNELS) -> HostKernels:
    macros = {} if source == "count_tokens.cu" else {"LOGIT_TYPE": TYPES[kind], "BLOCK_THREADS": threads}
    return HostKernels(folder / source, macros, folder)


def encode(case: Case, logits: Array) -> Array:
    return logits.astype(np.float32) if case.type == "fp32" else ENCODE[case.type](logits)


def logits_of(case: Case, samples: Iterable[tuple[int, ...]]) -> tuple[Array, Array]:
    """As they are stored, and as float32: of each sample by its own numbers, whatever else is in the step."""
    rows = []
    for sample in samples:
        random = np.random.default_rng([case.seed, *sample])
        row = random.standard_normal(case.vocab_size) * case.spread
        if case.levels:
            row = np.round(row * case.levels) / case.levels
        row += case.offset
        row[random.integers(case.vocab_size)] += case.outlier
        if case.holes:
            kind = random.random(case.vocab_size)
            row[kind < 0.2] = -np.inf
            row[kind > 0.9] = np.nan
        rows.append(row + 0.0)  # no negative zeros: the CPU tells them from others, in places
    stored = encode(case, np.array(rows))
    return stored, stored if case.type == "fp32" else DECODE[case.type](stored)


@dataclass(frozen=True)
class Sequence:
    row: int
    request: int
    choice: int
    step: int


class Processor:
    """Requests whose prompts begin with their own number. They start when they arrive, most of them in one step."""

    def __init__(self, case: Case) -> None:
        self._case = case
        random = np.random.default_rng(case.seed)
        num_sequences = sum(request.n for request in case.requests)
        self.prompts = [
            [number, *random.integers(0, case.vocab_size, 1 + number % 40).tolist()]
            for number in range(len(case.requests))
        ]
        limits = {"max_model_len": 128, "vocab_size": case.vocab_size}
        front, back = Endpoint.pair()
        self._kernels = CpuKernels(threads=1)
        self.engine = Engine(
            back,
            num_blocks=16 * num_sequences,
            block_size=16,
            max_num_seqs=num_sequences,
            max_num_batched_tokens=128 * num_sequences,
            eos_token_ids=[0],
            max_logprobs=MAX_LOGPROBS,
            **limits,
        )
        self._arenas = bind_arenas(self.engine)
        self._frontend = Frontend(front, None, threads=1, **limits)
        for request, prompt in zip(case.requests, self.prompts, strict=True):
            self._frontend.submit(prompt, Sampling(max_tokens=case.steps, ignore_eos=True, **vars(request)))
        self._num_open = self._num_rows = num_sequences
        self._sequences: dict[int, Sequence] = {}
        self._plan: Plan

    def plan(self) -> list[Sequence]:
        """Of each sample of the next step; none when all requests have ended."""
        if not self._num_open:
            return []
        while (plan := self.engine.plan(1.0)) is None:
            pass
        self._plan, arena = plan, self._arenas[plan.arena]
        start = arena["query_start"][: plan.num_reqs]
        choices: Counter[int] = Counter()
        sequences = []
        for row, index in zip(arena["sample_row"][: plan.num_samples].tolist(), arena["logits_index"], strict=False):
            known = self._sequences.get(row)
            if known and known.step + 1 < self._case.steps:
                sequence = replace(known, step=known.step + 1)
            else:
                request = int(arena["input_ids"][start[start <= index].max()])
                sequence = Sequence(row, request, choices[request], 0)
                choices[request] += 1
            self._num_open -= sequence.step == self._case.steps - 1
            self._sequences[row] = sequence
            sequences.append(sequence)
        return sequences

    def sample(self, logits: Array) -> dict[str, Array]:
        """The step's output columns."""
        arena = self._arenas[self._plan.arena]
        for name in ("top_ids", "top_logprobs"):
            arena[name].fill(NOT_WRITTEN)
        self._kernels.sample(self.engine, self._plan.epoch, logits.copy())
        num_samples = len(logits)
        columns = {name: arena[name][:num_samples].copy() for name in ("sampled", "sampled_logprob", "sampled_rank")}
        for name in ("top_ids", "top_logprobs"):
            # The columns are wider where beams need more.
            columns[name] = arena[name].reshape(self._num_rows, -1)[:num_samples, :MAX_LOGPROBS].copy()
        self.engine.commit(self._plan.epoch)
        return columns


@dataclass
class Device:
    """What lies on the GPU between steps, for `rows` rows, and a step's columns."""

    case: Case
    rows: int
    folder: Path = KERNELS
    schedule: Schedule = field(default_factory=Schedule)
    _kept: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.case.seed)
        vocab_size = self.case.vocab_size
        self.counts = guarded(random.integers(0, 1 << 16, (self.rows, vocab_size)).astype(np.uint16))
        self.prompts = guarded(random.integers(0, 1 << 32, (self.rows, -(-vocab_size // 32))).astype(np.uint32))
        self.last_token = guarded(np.full(self.rows, NOT_WRITTEN, np.int32))

    def _keep(self, values: Any, dtype: Any) -> int:
        self._kept.append(guarded(np.array(values, dtype)))
        return int(self._kept[-1].ctypes.data)

    def _state(self) -> PenaltyState:
        return PenaltyState(output_counts=self.counts.ctypes.data, prompt_tokens=self.prompts.ctypes.data)

    def count(self, items: list[tuple[int, bool, list[int], list[int]]]) -> None:
        """Of each item: its row, whether the row starts, and tokens of prompt and output."""
        tokens = [prompt + output for _, _, prompt, output in items]
        call = CountTokensCall(
            num_items=self._keep([len(items)], np.int32),
            row=self._keep([item[0] for item in items], np.int32),
            starts=self._keep([item[1] for item in items], np.int32),
            first_token=self._keep(np.cumsum([0, *map(len, tokens)]), np.int32),
            num_prompt=self._keep([len(item[2]) for item in items], np.int32),
            tokens=self._keep([token for each in tokens for token in each], np.int32),
            penalties=self._state(),
            vocab_size=self.case.vocab_size,
        )
        kernels = kernels_of("count_tokens.cu", "", 0, self.folder)
        kernels.launch("count_tokens", self.case.grid, [call], self.schedule)

    def sample(
        self,
        stored: Array,
        samples: list[tuple[int, Request, int]],
        steps: int | list[int],
        host_sample: list[int] | None = None,
        num_samples: int | None = None,
    ) -> dict[str, Array]:
        """The output columns for samples of (row, request, choice). Requests with logprobs are asked for if any is."""
        case, requests = self.case, [request for _, request, _ in samples]
        padding = np.full((len(stored), 3), np.inf, np.float32)  # behind each row, and never to be chosen
        logits = guarded(np.concatenate([stored, encode(case, padding)], 1))
        columns = {
            "sampled": guarded(np.full(len(samples), NOT_WRITTEN, np.int32)),
            "sampled_logprob": guarded(np.full(len(samples), NOT_WRITTEN, np.float32)),
            "sampled_rank": guarded(np.full(len(samples), NOT_WRITTEN, np.int32)),
            "top_ids": guarded(np.full((len(samples), MAX_LOGPROBS), NOT_WRITTEN, np.int32)),
            "top_logprobs": guarded(np.full((len(samples), MAX_LOGPROBS), NOT_WRITTEN, np.float32)),
        }
        state = self._state()
        for name in ("presence", "frequency", "repetition"):
            values = [getattr(request, f"{name}_penalty") for request in requests]
            if set(values) != {float(name == "repetition")}:
                setattr(state, name, self._keep(values, np.float32))
        call = SamplingCall(
            logits=logits.ctypes.data,
            num_samples=self._keep([len(samples) if num_samples is None else num_samples], np.int32),
            temperature=self._keep([request.temperature for request in requests], np.float32),
            top_k=self._keep([request.top_k for request in requests], np.int32),
            top_p=self._keep([request.top_p for request in requests], np.float32),
            min_p=self._keep([request.min_p for request in requests], np.float32),
            seed=self._keep([request.seed for request in requests], np.int64),
            choice=self._keep([choice for _, _, choice in samples], np.int32),
            draw_step=self._keep(np.broadcast_to(steps, len(samples)), np.int64),
            sample_row=self._keep([row for row, _, _ in samples], np.int32),
            host_sample=None if host_sample is None else self._keep(host_sample, np.int32),
            last_token=self.last_token.ctypes.data,
            **{name: column.ctypes.data for name, column in columns.items()},
            penalties=state,
            logits_stride=logits.shape[1],
            vocab_size=case.vocab_size,
            max_logprobs=MAX_LOGPROBS,
        )
        asked = [-1 if request.logprobs is None else request.logprobs for request in requests]
        if set(asked) != {-1}:
            call.num_logprobs = self._keep(asked, np.int32)
        kernels = kernels_of("sampling.cu", case.type, case.threads, self.folder)
        kernels.launch("sample", case.grid, [call], self.schedule)
        self._kept.clear()
        return columns


def check(case: Case, schedule: Schedule, folder: Path = KERNELS) -> None:
    """Every column of every step is the CPU's."""
    processor = Processor(case)
    num_rows = sum(request.n for request in case.requests)
    device = Device(case, num_rows, folder, schedule)
    outputs: dict[int, list[int]] = {}
    while sequences := processor.plan():
        # A sample's number shall not be its row.
        samples = [
            (num_rows - 1 - each.row, replace(case.requests[each.request], n=1), each.choice) for each in sequences
        ]
        steps = [each.step for each in sequences]
        new = [(row, each) for (row, _, _), each in zip(samples, sequences, strict=True) if each.step == 0]
        device.count([(row, True, processor.prompts[each.request], []) for row, each in new])
        outputs.update({row: [] for row, _ in new})
        stored, logits = logits_of(case, [(each.request, each.choice, each.step) for each in sequences])
        expected = processor.sample(logits)
        actual = device.sample(stored, samples, steps)
        compare(actual, expected, any(request.logprobs is not None for _, request, _ in samples))
        for (row, request, _), token in zip(samples, actual["sampled"].tolist(), strict=True):
            assert device.last_token[row] == token
            if request.presence_penalty or request.frequency_penalty or request.repetition_penalty != 1:
                outputs[row].append(token)
            counts = np.bincount(outputs[row], minlength=case.vocab_size)
            assert (device.counts[row] == counts).all(), f"row {row}: its tokens are not counted"


def compare(actual: dict[str, Array], expected: dict[str, Array], with_logprobs: bool) -> None:
    wrong = np.flatnonzero(actual["sampled"] != expected["sampled"])
    assert not len(wrong), f"samples {wrong}: {actual['sampled'][wrong]}, expected {expected['sampled'][wrong]}"
    if not with_logprobs:
        assert (actual["sampled_rank"] == NOT_WRITTEN).all(), "log-probabilities that nobody asked for"
        return
    for name in ("sampled_rank", "top_ids"):
        assert (actual[name] == expected[name]).all(), f"{name}: {actual[name]}, expected {expected[name]}"
    for name in ("sampled_logprob", "top_logprobs"):
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=2e-6, err_msg=name)
