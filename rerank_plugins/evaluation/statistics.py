"""Bootstrap intervals and paired randomisation tests: what chance could explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CONFIDENCE", "RESAMPLES", "Estimate", "estimates", "holm", "paired_p_values"]

CONFIDENCE = 0.95
"""The confidence level of the intervals."""
RESAMPLES = 10_000
"""Resamples of the bootstrap, and sign flips of the test."""

_BLOCK = 500
"""Resamples held in memory at once."""
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over the queries with its confidence interval."""

    mean: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""


def estimates(columns: Sequence[Sequence[float]], *, seed: int) -> list[Estimate]:
    """Return the mean of each column and its percentile bootstrap interval.

    All columns are resampled with the same queries; equal seeds give equal intervals.

    Args:
        columns: one value per query each, all of the same length of at least 1.
        seed: of the random choices.
    """
    import numpy as np  # noqa: PLC0415  # heavy

    if not columns:
        return []
    values = np.asarray(columns, dtype=np.float64).T
    queries = len(values)
    random = np.random.default_rng(seed)
    means = np.empty((RESAMPLES, values.shape[1]))
    for start in range(0, RESAMPLES, _BLOCK):
        counts = random.multinomial(queries, np.full(queries, 1 / queries), size=_BLOCK)
        means[start : start + _BLOCK] = counts @ values / queries
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return [
        Estimate(float(mean), float(lower), float(upper))
        for mean, lower, upper in zip(values.mean(axis=0), low, high, strict=True)
    ]


def paired_p_values(differences: Sequence[Sequence[float]], *, seed: int) -> list[float]:
    """Return the two-sided p-value of each column of paired differences.

    Fisher's randomisation test: under the null hypothesis each difference could have either sign.
    Exact where all signs can be tried; otherwise `RESAMPLES` random ones are, so that no p-value
    is below 1 / (RESAMPLES + 1).

    Args:
        differences: per column, one difference per query.
        seed: of the random choices.
    """
    import numpy as np  # noqa: PLC0415  # heavy

    return [_p_value(np.asarray(column, dtype=np.float64), seed) for column in differences]


def _p_value(differences: np.ndarray, seed: int) -> float:
    import numpy as np  # noqa: PLC0415  # heavy

    changed = differences[differences != 0.0]
    observed = abs(changed.sum()) - _ROUNDING
    if 2 ** len(changed) <= RESAMPLES:
        patterns = np.arange(2 ** len(changed))[:, None] >> np.arange(len(changed))
        sums = (1.0 - 2.0 * (patterns & 1)) @ changed
        return float((np.abs(sums) >= observed).mean())
    random = np.random.default_rng(seed)
    extreme = 0
    for _ in range(0, RESAMPLES, _BLOCK):
        signs = 1.0 - 2.0 * random.integers(0, 2, size=(_BLOCK, len(changed)))
        extreme += int((np.abs(signs @ changed) >= observed).sum())
    return (extreme + 1) / (RESAMPLES + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for multiple comparisons (Holm, 1979), in their order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted
