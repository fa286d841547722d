"""Mixtures of experts for cuda/moe_routing.cu and moe_product.cu, and what they must give, in float64.

Case        the shapes, and how experts are chosen
Layer       its arrays in guarded memory, and the launches in their order
check       every stage against its definition, each from what the stage before really gave
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from host import KERNELS, HostKernels, Schedule, guarded
from narrow import DECODE, ENCODE, NAN
from numpy.typing import NDArray

from octavo.backends.cuda.arguments import (
    CombineCall,
    ExpertProductCall,
    ExpertTiles,
    RouteCall,
    Scoring,
    SortCall,
)

TYPES = {"bf16": "Bfloat16", "fp16": "Float16"}
TOLERANCE = {"bf16": 4e-3, "fp16": 5e-4}
"""Of a row: the norm of its error to its norm. A number is rounded once, by up to half of that."""
NOT_WRITTEN = -7
PADDING = 8
"""Elements behind each row."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    num_tokens: int = 5
    num_experts: int = 8
    top_k: int = 2
    hidden_size: int = 64
    intermediate_size: int = 32
    type: str = "bf16"
    scoring: Scoring = Scoring.SOFTMAX
    renormalise: bool = True
    scale: float = 1.0
    bias: bool = False
    groups: tuple[int, int] = (1, 1)
    """How many there are, and how many of them are open to a token."""
    levels: int = 0
    """0: all scores differ; else the router's logits are rounded to so many steps a unit."""
    absent: bool = False
    """Some pairs go to experts that are not here."""
    shared: bool = False
    """A further expert, of all tokens, is added in place."""
    tile_rows: int = 16
    grid: int = 3
    seed: int = 0


@cache
def kernels_of(source: str, case_type: str, tile_rows: int, folder: Path = KERNELS) -> HostKernels:
    return HostKernels(folder / source, {"ELEMENT_TYPE": TYPES[case_type], "TILE_ROWS": tile_rows}, folder)


class Layer:
    def __init__(self, case: Case, schedule: Schedule, folder: Path) -> None:
        self.case, self._schedule, self._folder = case, schedule, folder
        self._kept: list[Array] = []
        self._random = np.random.default_rng(case.seed)
        self.num_pairs = case.num_tokens * case.top_k
        self.num_tokens = guarded(np.array([case.num_tokens], np.int32))
        self.experts = guarded(np.full((case.num_tokens, case.top_k), NOT_WRITTEN, np.int32))
        self.weights = guarded(np.full((case.num_tokens, case.top_k), np.nan, np.float32))
        most_tiles = self.num_pairs // case.tile_rows + case.num_experts
        self.num_tiles = guarded(np.full(1, NOT_WRITTEN, np.int32))
        self.tile_expert = guarded(np.full(most_tiles, NOT_WRITTEN, np.int32))
        self.tile_pair = guarded(np.full((most_tiles, case.tile_rows), NOT_WRITTEN, np.int32))
        self.tiles = ExpertTiles(
            num_tiles=self.num_tiles.ctypes.data,
            expert=self.tile_expert.ctypes.data,
            pair=self.tile_pair.ctypes.data,
        )

    def numbers(self, *shape: int, spread: float = 1.0, padding: int = PADDING) -> tuple[Array, Array]:
        """Codes with NaN behind each row, in guarded memory, and what they stand for."""
        codes = ENCODE[self.case.type](self._random.standard_normal(shape) * spread)
        stored = np.full((*shape[:-1], shape[-1] + padding), NAN[self.case.type], np.uint16)
        stored[..., : shape[-1]] = codes
        self._kept.append(guarded(stored))
        return self._kept[-1], DECODE[self.case.type](codes).astype(np.float64)

    def launch(self, name: str, call: Any) -> None:
        source = "moe_product.cu" if name == "expert_product" else "moe_routing.cu"
        kernels = kernels_of(source, self.case.type, self.case.tile_rows, self._folder)
        kernels.launch(name, self.case.grid, [call], self._schedule)
        assert not kernels.statistics.bank_conflicts, f"{kernels.statistics.bank_conflicts} bank conflicts"

    def route(self) -> None:
        case = self.case
        stored, logits = self.numbers(case.num_tokens, case.num_experts, spread=2.0)
        if case.levels:
            logits = np.round(logits * case.levels) / case.levels
            stored[:, : case.num_experts] = ENCODE[case.type](logits)
        bias = guarded(self._random.standard_normal(case.num_experts).astype(np.float32) * 0.3)
        call = RouteCall(
            logits=stored.ctypes.data,
            bias=bias.ctypes.data if case.bias else None,
            experts=self.experts.ctypes.data,
            weights=self.weights.ctypes.data,
            num_tokens=self.num_tokens.ctypes.data,
            logits_stride=stored.shape[1],
            num_experts=case.num_experts,
            top_k=case.top_k,
            scoring=case.scoring,
            renormalise=case.renormalise,
            num_groups=case.groups[0],
            top_groups=case.groups[1],
            scale=case.scale,
        )
        self.launch("route_tokens", call)
        experts, weights = routed(case, logits, bias if case.bias else np.zeros(case.num_experts))
        assert (self.experts == experts).all(), f"experts {self.experts}, expected {experts}"
        np.testing.assert_allclose(self.weights, weights, rtol=2e-5)

    def leave_out(self) -> None:
        """Sends some pairs to experts of another device."""
        kind = self._random.integers(0, 6, self.experts.shape)
        self.experts[kind == 0] = -1
        self.experts[kind == 1] = self.case.num_experts

    def sort(self) -> None:
        case = self.case
        self.launch(
            "sort_pairs",
            SortCall(
                experts=self.experts.ctypes.data,
                num_tokens=self.num_tokens.ctypes.data,
                tiles=self.tiles,
                num_experts=case.num_experts,
                top_k=case.top_k,
            ),
        )
        tiles = []
        for expert in range(case.num_experts):
            pairs = np.flatnonzero(self.experts.reshape(-1) == expert)
            for first in range(0, len(pairs), case.tile_rows):
                tile = pairs[first : first + case.tile_rows].tolist()
                tiles.append((expert, tile + [-1] * (case.tile_rows - len(tile))))
        assert self.num_tiles[0] == len(tiles), f"{self.num_tiles[0]} tiles, expected {len(tiles)}"
        assert self.tile_expert[: len(tiles)].tolist() == [expert for expert, _ in tiles], "tiles of other experts"
        assert self.tile_pair[: len(tiles)].tolist() == [pairs for _, pairs in tiles], "tiles of other pairs"
        assert (self.tile_pair[len(tiles) :] == NOT_WRITTEN).all(), "wrote behind the last tile"

    def multiply(self, stored: Array, inputs: Array, out_features: int, pairs_per_input: int) -> tuple[Array, Array]:
        """The output's codes, and what they stand for; of pairs that have no expert here NaN."""
        case, in_features = self.case, inputs.shape[1]
        matrices, weights = self.numbers(case.num_experts, out_features, in_features, spread=0.3, padding=0)
        output = guarded(np.full((self.num_pairs, out_features + PADDING), NAN[case.type], np.uint16))
        self.launch(
            "expert_product",
            ExpertProductCall(
                input=stored.ctypes.data,
                weights=matrices.ctypes.data,
                output=output.ctypes.data,
                tiles=self.tiles,
                input_stride=stored.shape[1],
                output_stride=output.shape[1],
                in_features=in_features,
                out_features=out_features,
                pairs_per_input=pairs_per_input,
            ),
        )
        assert (output[:, out_features:] == NAN[case.type]).all(), "wrote behind a row"
        values = DECODE[case.type](output[:, :out_features]).astype(np.float64)
        for pair, expert in enumerate(self.experts.reshape(-1)):
            if 0 <= expert < case.num_experts:
                compare(case, values[pair], weights[expert] @ inputs[pair // pairs_per_input], f"pair {pair}")
            else:
                assert np.isnan(values[pair]).all(), f"pair {pair} has no expert here, and was written"
        return output, values

    def combine(self, stored: Array, values: Array) -> None:
        case, hidden_size = self.case, values.shape[1]
        packed = guarded(stored[:, :hidden_size])
        out = guarded(np.full((case.num_tokens, hidden_size + PADDING), NAN[case.type], np.uint16))
        expected = np.zeros((case.num_tokens, hidden_size))
        if case.shared:
            out, expected = self.numbers(case.num_tokens, hidden_size)
        self.launch(
            "combine_experts",
            CombineCall(
                pairs=packed.ctypes.data,
                experts=self.experts.ctypes.data,
                weights=self.weights.ctypes.data,
                shared=out.ctypes.data if case.shared else None,
                out=out.ctypes.data,
                num_tokens=self.num_tokens.ctypes.data,
                out_stride=out.shape[1],
                num_experts=case.num_experts,
                top_k=case.top_k,
                hidden_size=hidden_size,
            ),
        )
        here = (self.experts >= 0) & (self.experts < case.num_experts)
        weighted = values.reshape(case.num_tokens, case.top_k, hidden_size) * self.weights[..., None].astype(np.float64)
        expected += np.where(here[..., None], weighted, 0).sum(1)
        for token in range(case.num_tokens):
            actual = DECODE[case.type](out[token, :hidden_size]).astype(np.float64)
            compare(case, actual, expected[token], f"token {token}")
        assert (out[:, hidden_size:] == NAN[case.type]).all(), "wrote behind a row"


def routed(case: Case, logits: Array, bias: Array) -> tuple[Array, Array]:
    """Experts and weights of each token."""
    if case.scoring == Scoring.SIGMOID:
        scores = 1 / (1 + np.exp(-logits))
    else:
        scores = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
        scores /= scores.sum(-1, keepdims=True)
    compared = scores + bias
    num_groups, top_groups = case.groups
    if top_groups < num_groups:
        grouped = np.sort(compared.reshape(case.num_tokens, num_groups, -1), -1)
        of_group = grouped[..., -2:].sum(-1) if case.bias else grouped[..., -1]
        best = np.argsort(-of_group, -1, kind="stable")[:, :top_groups]
        is_open = np.zeros((case.num_tokens, num_groups), bool)
        np.put_along_axis(is_open, best, True, -1)
        compared = np.where(np.repeat(is_open, case.num_experts // num_groups, -1), compared, -np.inf)
    experts = np.argsort(-compared, -1, kind="stable")[:, : case.top_k]
    weights = np.take_along_axis(scores, experts, -1)
    if case.renormalise:
        weights /= weights.sum(-1, keepdims=True)
    return experts, weights * case.scale


def compare(case: Case, actual: Array, expected: Array, what: str) -> None:
    error = np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)
    assert error < TOLERANCE[case.type], f"{what}: relative error {error:.2g}"


def check(case: Case, schedule: Schedule, folder: Path = KERNELS) -> bytes:
    """Returns the bits of what the pairs became."""
    layer = Layer(case, schedule, folder)
    layer.route()
    if case.absent:
        layer.leave_out()
    layer.sort()
    stored, inputs = layer.numbers(case.num_tokens, case.hidden_size)
    inner, values = layer.multiply(stored, inputs, case.intermediate_size, case.top_k)
    outer, values = layer.multiply(inner, values, case.hidden_size, 1)
    layer.combine(outer, values)
    return outer.tobytes()
