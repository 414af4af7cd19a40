"""Statistics over ranks: the nearest-rank percentile and Kendall's τ-b."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rerank_plugins.errors import ConfigError

__all__ = ["kendall_tau", "percentile"]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` % of the values do not exceed.

    This is the nearest-rank method: the result is one of the values, never a mean of two.

    Args:
        values: at least one, in any order.
        percent: from 0 to 100.
    """
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def kendall_tau(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Kendall's τ-b of two lists of scores for the same documents.

    +1 means the same order, -1 the reverse; ties count as in `scipy.stats.kendalltau`
    (Kendall 1945). None where it is undefined: with fewer than two documents, or when all
    scores of one list are equal.

    Args:
        one: a finite score per document.
        other: the other scores of the same documents.

    Raises:
        ConfigError: the lists have different lengths.
    """
    import numpy as np  # noqa: PLC0415  # the command line starts without it

    if len(one) != len(other):
        raise ConfigError(
            f"the lists hold {len(one)} and {len(other)} scores; score the same documents in both"
        )
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    concordance = untied_a = untied_b = 0
    for n in range(1, len(a)):  # row by row, so that memory stays small for thousands of documents
        above_a = (a[n] > a[:n]).astype(np.int64) - (a[n] < a[:n])
        above_b = (b[n] > b[:n]).astype(np.int64) - (b[n] < b[:n])
        concordance += int(above_a @ above_b)
        untied_a += int(above_a @ above_a)
        untied_b += int(above_b @ above_b)
    if not untied_a or not untied_b:
        return None
    return concordance / math.sqrt(untied_a * untied_b)
