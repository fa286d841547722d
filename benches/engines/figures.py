"""From tokens per second to figures: medians, the lowest and highest round, and ratios taken round by round."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

OURS, OURS_FLOAT32 = "octavo", "octavo_fp32"
SAME_FILE = "llamacpp_q4_1"

Rounds = Mapping[str, Sequence[float]]
"""Tokens per second of each round, by the contender's name."""


def figures(workload: str, rounds: Rounds, float32: Iterable[str]) -> dict[str, float]:
    """The figures of one workload, each named `workload`_…; `float32` names the contenders of that precision."""
    found: dict[str, float] = {}
    for name, speeds in rounds.items():
        found |= _spread(f"{workload}_{name}_tok_s", speeds)
    peers = [name for name in rounds if name not in (OURS, OURS_FLOAT32)]
    if OURS in rounds:
        for peer in peers:
            found[f"{workload}_ratio_{peer}"] = round(median(_ratios(rounds, OURS, peer)), 2)
        if SAME_FILE in rounds:
            found |= _spread(f"{workload}_ratio_llamacpp_same_file", _ratios(rounds, OURS, SAME_FILE))
        found |= _best(f"{workload}_ratio_best_peer", rounds, OURS, peers)
        found |= _best(f"{workload}_ratio_transformers", rounds, OURS, _of(peers, "transformers"))
        found |= _best(f"{workload}_ratio_llamacpp", rounds, OURS, _of(peers, "llamacpp"))
    if OURS_FLOAT32 in rounds:
        found |= _best(f"{workload}_fp32_ratio_best_peer", rounds, OURS_FLOAT32, set(peers) & set(float32))
    return found


def best(rounds: Rounds, names: Iterable[str]) -> str | None:
    """Who of `names` has the highest median."""
    return max(names, key=lambda name: median(rounds[name]), default=None)


def _best(figure: str, rounds: Rounds, ours: str, peers: Iterable[str]) -> dict[str, float]:
    peer = best(rounds, peers)
    return {} if peer is None else _spread(figure, _ratios(rounds, ours, peer))


def _of(names: Iterable[str], engine: str) -> list[str]:
    return [name for name in names if name.startswith(engine)]


def _ratios(rounds: Rounds, ours: str, peer: str) -> list[float]:
    return [mine / theirs for mine, theirs in zip(rounds[ours], rounds[peer], strict=True)]


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: round(median(values), 2), f"{name}_min": round(min(values), 2), f"{name}_max": round(max(values), 2)}
