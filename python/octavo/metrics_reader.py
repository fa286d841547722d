"""An engine's metrics as objects, by vLLM's names: what `LLM.get_metrics` returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family
    from prometheus_client.core import Sample

    from octavo.server.metrics import Metrics


@dataclass(frozen=True)
class Metric:
    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Counter(Metric):
    """Only grows."""

    value: int


@dataclass(frozen=True)
class Gauge(Metric):
    value: float


@dataclass(frozen=True)
class Vector(Metric):
    """A counter for each position."""

    values: list[int]


@dataclass(frozen=True)
class Histogram(Metric):
    count: int
    sum: float
    buckets: Mapping[str, int]
    """Upper bound → observations up to there."""


def read(metrics: "Metrics") -> list[Metric]:
    """Every metric of the engine, with its values of now."""
    found: list[Metric] = []
    for family in metrics.collect():
        if family.name.startswith("vllm:"):
            found += _histograms(family) if family.type == "histogram" else _values(family)
    return found


def _values(family: "Family") -> list[Metric]:
    samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    if family.type == "counter":
        return [Counter(family.name, sample.labels, int(sample.value)) for sample in samples]
    return [Gauge(family.name, sample.labels, sample.value) for sample in samples]


def _histograms(family: "Family") -> list[Metric]:
    groups: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in family.samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        groups.setdefault(labels, []).append(sample)
    found: list[Metric] = []
    for labels, samples in groups.items():
        buckets = {sample.labels["le"]: int(sample.value) for sample in samples if sample.name.endswith("_bucket")}
        values = {sample.name.rpartition("_")[2]: sample.value for sample in samples}
        found.append(Histogram(family.name, dict(labels), int(values["count"]), values["sum"], buckets))
    return found
