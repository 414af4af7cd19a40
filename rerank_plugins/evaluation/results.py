"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rerank_plugins.evaluation.datasets.dataset import Dataset
from rerank_plugins.evaluation.percentile import percentile
from rerank_plugins.evaluation.scoring import Timing
from rerank_plugins.evaluation.statistics import Estimate

__all__ = ["SIGNIFICANT", "Comparison", "Cut", "Evaluation", "Speed", "System"]

SIGNIFICANT = 0.05
"""Adjusted p-values below this are called significant."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How long calls took, one query at a time."""

    seconds: tuple[float, ...]
    """Wall time of each call, ascending."""
    pairs: int
    """Pairs scored in these calls."""

    @classmethod
    def of(cls, timings: Sequence[Timing]) -> Speed | None:
        """Sum up timings; None without any."""
        if not timings:
            return None
        seconds = tuple(sorted(timing.seconds for timing in timings))
        return cls(seconds, sum(timing.documents for timing in timings))

    def percentile(self, percent: float) -> float:
        """Seconds within which this share of the calls ended (nearest rank)."""
        return percentile(self.seconds, percent)

    @property
    def pairs_per_second(self) -> float:
        """Pairs per second of wall time, over all these calls."""
        return self.pairs / sum(self.seconds)


@dataclass(frozen=True, slots=True)
class Cut:
    """What reranking only the first candidates brings, and costs."""

    depth: int
    """How many candidates are reranked; the others keep their order behind them."""
    figures: Mapping[str, Estimate]
    """Metric → mean over the queries."""
    speed: Speed | None
    """Calls of that many documents; None if none was timed."""


@dataclass(frozen=True, slots=True)
class System:
    """An order of the candidates: a backend's, or the first stage's."""

    label: str
    """What the user called it."""
    name: str
    """The backend's name; of the first stage, its label."""
    values: Mapping[str, Sequence[float]]
    """Metric → one value per query, in the order of the dataset's queries."""
    figures: Mapping[str, Estimate]
    """Metric → mean over the queries."""
    rankings: Mapping[str, Sequence[str]]
    """Query id → document ids, best first."""
    cuts: tuple[Cut, ...] = ()
    """By depth, ascending; the last is the deepest, whose figures are those above."""

    @property
    def speed(self) -> Speed | None:
        """Calls of full depth; None for a first stage."""
        return self.cuts[-1].speed if self.cuts else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on the same queries."""

    metric: str
    label: str
    """Which system."""
    against: str
    """Compared with which other one."""
    difference: Estimate
    """Mean of the differences per query; above 0 the first one is better."""
    p_value: float
    """Of a paired randomisation test, two-sided."""
    adjusted: float
    """The p-value, adjusted (Holm) for all comparisons on this metric."""
    better: int
    """Queries on which the first one is better."""
    worse: int
    """Queries on which it is worse."""

    @property
    def significant(self) -> bool:
        """Whether chance is an unlikely explanation."""
        return self.adjusted < SIGNIFICANT


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Backends beside the first stage on one dataset."""

    dataset: Dataset
    metrics: tuple[str, ...]
    """The first one decides what reports call better or worse."""
    depth: int
    """How many candidates were reranked."""
    systems: tuple[System, ...]
    """The first stage, then the backends as they were given."""
    comparisons: tuple[Comparison, ...]
    """Each backend with the first stage, then the backends with each other; per metric."""
    seed: int
    """Of the intervals and tests."""

    @property
    def baseline(self) -> System:
        """The first stage."""
        return self.systems[0]

    @property
    def backends(self) -> tuple[System, ...]:
        """All systems but the first stage."""
        return self.systems[1:]

    def compared(self, label: str, against: str, metric: str | None = None) -> Comparison:
        """Return the comparison of two systems; on the first metric, unless named.

        Raises:
            KeyError: there is none.
        """
        wanted = (metric or self.metrics[0], label, against)
        for found in self.comparisons:
            if wanted == (found.metric, found.label, found.against):
                return found
        raise KeyError(wanted)
