"""How far probabilities are from what is observed, with intervals over the queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rerank_plugins.evaluation.statistics import CONFIDENCE, Estimate

if TYPE_CHECKING:
    from rerank_plugins.evaluation.calibration.fit import Array, Indexes

__all__ = [
    "BINS",
    "Bin",
    "ScoredPairs",
    "bins_of",
    "calibration_error",
    "log_loss",
    "share_interval",
]

BINS = 10
"""How many ranges of equal width the error compares."""
_RESAMPLES = 2_000
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """ScoredPairs of queries and documents: a probability, relevance, and the query of each."""

    p: Array
    y: Array
    queries: Indexes
    """The number of each pair's query, from 0."""

    @property
    def count(self) -> int:
        """How many queries there are."""
        return int(self.queries.max()) + 1


@dataclass(frozen=True, slots=True)
class Bin:
    """The pairs whose probabilities lie in one range."""

    predicted: float
    """The mean probability."""
    observed: float
    """The share that is relevant."""
    pairs: int


def bins_of(pairs: ScoredPairs) -> list[Bin]:
    """Return the ranges that hold pairs, by rising probability."""
    sums = _sums(pairs).sum(axis=0)
    return [Bin(float(p / n), float(y / n), int(n)) for p, y, n in sums if n]


def calibration_error(pairs: ScoredPairs, *, seed: int) -> Estimate:
    """Return the expected calibration error, and its interval by the bootstrap over queries.

    The mean over all pairs of the distance between the probability and the share that is relevant,
    in ten ranges of equal width (Guo et al., 2017).
    """
    import numpy as np  # noqa: PLC0415  # heavy

    sums = _sums(pairs)
    draws = _draws(len(sums), seed) @ sums.reshape(len(sums), -1)
    drawn = draws.reshape(-1, BINS, 3)
    errors = np.abs(drawn[:, :, 0] - drawn[:, :, 1]).sum(axis=1) / drawn[:, :, 2].sum(axis=1)
    whole = sums.sum(axis=0)
    mean = float(np.abs(whole[:, 0] - whole[:, 1]).sum() / whole[:, 2].sum())
    return Estimate(mean, *_tails(errors))


def log_loss(p: Array, y: Array) -> Array:
    """Return the negative log-likelihood of each pair."""
    import numpy as np  # noqa: PLC0415  # heavy

    p = np.clip(p, _LEAST, 1.0 - _LEAST)
    return -(y * np.log(p) + (1.0 - y) * np.log1p(-p))


def share_interval(
    part: Array, whole: Array, queries: Indexes, count: int, *, seed: int
) -> Estimate:
    """Return what share of the pairs in `whole` is in `part`, with its interval over queries.

    Args:
        part: 1.0 for pairs in it, else 0.0.
        whole: the same; it holds `part`, and at least one pair.
        queries: the number of each pair's query.
        count: how many queries there are.
        seed: of the random choices.
    """
    import numpy as np  # noqa: PLC0415  # heavy

    sums = np.stack([np.bincount(queries, each, minlength=count) for each in (part, whole)], axis=1)
    drawn = _draws(count, seed) @ sums
    filled = drawn[drawn[:, 1] > 0]
    return Estimate(float(part.sum() / whole.sum()), *_tails(filled[:, 0] / filled[:, 1]))


def _sums(pairs: ScoredPairs) -> Array:
    """Return per query and range: the sum of probabilities, of relevance, and the count."""
    import numpy as np  # noqa: PLC0415  # heavy

    ranges = np.minimum((pairs.p * BINS).astype(int), BINS - 1)
    cells = pairs.queries.astype(int) * BINS + ranges
    columns = [
        np.bincount(cells, weights, minlength=pairs.count * BINS)
        for weights in (pairs.p, pairs.y, None)
    ]
    return np.stack(columns, axis=-1).reshape(pairs.count, BINS, 3).astype(np.float64)


def _draws(queries: int, seed: int) -> Array:
    """Return how often each resample has each query."""
    import numpy as np  # noqa: PLC0415  # heavy

    random = np.random.default_rng(seed)
    shares = np.full(queries, 1 / queries)
    return random.multinomial(queries, shares, size=_RESAMPLES).astype(np.float64)


def _tails(values: Array) -> tuple[float, float]:
    import numpy as np  # noqa: PLC0415  # heavy

    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
