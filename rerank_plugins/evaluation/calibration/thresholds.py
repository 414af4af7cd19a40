"""The score to keep for a wished precision or recall."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rerank_plugins.evaluation.calibration.reliability import ScoredPairs, share_interval
from rerank_plugins.evaluation.statistics import Estimate

__all__ = ["Threshold", "of_precision", "of_recall"]

_LEAST_KEPT = 20
"""A precision is that of so many documents at least."""
_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Threshold:
    """The lowest score to keep for a wished precision or recall."""

    wish: str
    """`"precision"` or `"recall"`."""
    value: float
    """The wished value."""
    min_score: float | None
    """The threshold, on the calibrated scale; None: none reaches it."""
    precision: Estimate | None = None
    """The share of relevant documents among those it keeps."""
    recall: Estimate | None = None
    """The share of the relevant candidates that it keeps."""


def of_precision(pairs: ScoredPairs, value: float, seed: int) -> Threshold:
    """Return the lowest threshold of which the documents kept are that precise."""
    import numpy as np  # noqa: PLC0415  # heavy

    order = np.argsort(-pairs.p, kind="stable")
    kept = np.arange(1, len(order) + 1)
    precise = np.cumsum(pairs.y[order]) / kept >= value
    ends = np.append(np.diff(pairs.p[order]) != 0, True)  # equal scores stay together
    found = np.flatnonzero(precise & ends & (kept >= _LEAST_KEPT))
    if not len(found):
        return Threshold("precision", value, None)
    least = math.ceil(float(pairs.p[order][found[-1]]) * 10**_DECIMALS) / 10**_DECIMALS
    return _threshold("precision", value, least, pairs, seed)


def of_recall(pairs: ScoredPairs, value: float, seed: int) -> Threshold:
    """Return the highest threshold that keeps so large a share of the relevant candidates."""
    import numpy as np  # noqa: PLC0415  # heavy

    relevant = np.sort(pairs.p[pairs.y > 0])[::-1]
    place = min(math.ceil(value * len(relevant) - 1e-9), len(relevant)) - 1
    least = math.floor(float(relevant[place]) * 10**_DECIMALS) / 10**_DECIMALS
    return _threshold("recall", value, least, pairs, seed)


def _threshold(wish: str, value: float, least: float, pairs: ScoredPairs, seed: int) -> Threshold:
    """Measure a threshold."""
    kept = (pairs.p >= least).astype(float)
    hits = kept * pairs.y
    queries, count = pairs.queries, pairs.count
    precision = share_interval(hits, kept, queries, count, seed=seed) if kept.any() else None
    recall = share_interval(hits, pairs.y, queries, count, seed=seed)
    return Threshold(wish, value, least, precision, recall)
