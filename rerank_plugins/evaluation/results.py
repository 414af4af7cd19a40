"""The result of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rerank_plugins._internal.rank_statistics import percentile
from rerank_plugins.errors import ConfigError
from rerank_plugins.evaluation.datasets.dataset import Dataset
from rerank_plugins.evaluation.metrics import metric_name
from rerank_plugins.evaluation.scoring import Timing
from rerank_plugins.evaluation.statistics import Estimate

__all__ = ["SIGNIFICANT", "DepthResult", "Evaluation", "Latency", "PairedTest", "System"]

SIGNIFICANT = 0.05
"""Adjusted p-values below this are called significant."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The times of calls, one query at a time."""

    seconds: tuple[float, ...]
    """Wall time of each call, ascending."""
    pairs: int
    """Pairs scored in these calls."""

    @classmethod
    def of(cls, timings: Sequence[Timing]) -> Latency | None:
        """Collect timings; None if there are none."""
        if not timings:
            return None
        seconds = tuple(sorted(timing.seconds for timing in timings))
        return cls(seconds, sum(timing.documents for timing in timings))

    def percentile(self, percent: float) -> float:
        """Return the seconds within which this share of the calls ended (nearest rank)."""
        return percentile(self.seconds, percent)

    @property
    def pairs_per_second(self) -> float:
        """Pairs per second of wall time, over all these calls."""
        return self.pairs / sum(self.seconds)


@dataclass(frozen=True, slots=True)
class DepthResult:
    """Quality and latency when only the first candidates are reranked."""

    depth: int
    """How many candidates are reranked; the others keep their order behind them."""
    figures: Mapping[str, Estimate]
    """Metric → mean over the queries."""
    speed: Latency | None
    """The timed calls of that many documents; None if there are none."""


@dataclass(frozen=True, slots=True)
class System:
    """A ranking of the candidates: a backend's, or the first stage's."""

    label: str
    """The name in reports."""
    name: str
    """The backend's name; the first stage's label."""
    values: Mapping[str, Sequence[float]] = field(repr=False)
    """Metric → one value per query, in the order of the dataset's queries."""
    figures: Mapping[str, Estimate]
    """Metric → mean over the queries."""
    rankings: Mapping[str, Sequence[str]] = field(repr=False)
    """Query id → document ids, best first."""
    by_depth: tuple[DepthResult, ...] = ()
    """By depth, ascending; the figures of the last, deepest one are those above."""

    @property
    def speed(self) -> Latency | None:
        """The calls at full depth; None for the first stage."""
        return self.by_depth[-1].speed if self.by_depth else None


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A comparison of two systems on the same queries."""

    metric: str
    label: str
    """The system."""
    against: str
    """The system that it is compared with."""
    difference: Estimate
    """Mean difference per query; above 0, `label` is better than `against`."""
    p_value: float
    """From a two-sided paired randomisation test."""
    adjusted: float
    """The p-value, adjusted (Holm) for all comparisons on the metric."""
    better: int
    """Queries on which `label` is better."""
    worse: int
    """Queries on which `label` is worse."""

    @property
    def significant(self) -> bool:
        """Whether chance is an unlikely explanation of the difference."""
        return self.adjusted < SIGNIFICANT


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """Backends compared with the first stage on one dataset."""

    dataset: Dataset
    metrics: tuple[str, ...]
    """The first one decides what reports call better or worse."""
    depth: int
    """How many candidates were reranked."""
    systems: tuple[System, ...]
    """The first stage, then the backends in the order of `evaluate()`'s argument."""
    comparisons: tuple[PairedTest, ...]
    """Per metric: each backend with the first stage, then the backends with each other."""
    seed: int
    """Of the intervals and tests."""

    @property
    def baseline(self) -> System:
        """The first stage."""
        return self.systems[0]

    @property
    def backends(self) -> tuple[System, ...]:
        """All systems except the first stage."""
        return self.systems[1:]

    def compared(self, label: str, against: str, metric: str | None = None) -> PairedTest:
        """Return the comparison of two systems, by default on the first metric.

        Raises:
            ConfigError: there is no such comparison.
        """
        name = self.metrics[0] if metric is None else metric_name(metric)
        for test in self.comparisons:
            if (name, label, against) == (test.metric, test.label, test.against):
                return test
        pairs = dict.fromkeys(f"{one.label!r} with {one.against!r}" for one in self.comparisons)
        raise ConfigError(
            f"{label!r} is not compared with {against!r} on {name}; valid: {', '.join(pairs)}, on "
            f"{', '.join(self.metrics)}"
        )

    def __repr__(self) -> str:
        metric = self.metrics[0]
        means = ", ".join(f"{one.label} {one.figures[metric].mean:.3f}" for one in self.systems)
        return f"<Evaluation of {self.dataset.name}: {metric} {means}>"
