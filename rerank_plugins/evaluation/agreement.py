"""How alike two orders of the same documents are: Kendall's τ-b and rank-biased overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rerank_plugins.errors import ConfigError

__all__ = ["PERSISTENCE", "kendall_tau", "rank_biased_overlap"]

PERSISTENCE = 0.9
"""RBO's p: 86 % of the weight lies on the first ten places (Webber et al. 2010, equation 21)."""


def kendall_tau(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Kendall's τ-b of two lists of scores for the same documents.

    +1: the same order; -1: the opposite; ties count as they do in `scipy.stats.kendalltau`
    (Kendall 1945). None where it is not defined: fewer than two documents, or a list of which
    all scores are equal.

    Args:
        one: a finite score per document.
        other: the same documents' other scores.

    Raises:
        ConfigError: the lists have different lengths.
    """
    import numpy as np  # noqa: PLC0415  # the command line starts without it

    _check_lengths(one, other)
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    agreeing = untied_a = untied_b = 0
    for n in range(1, len(a)):  # row by row: memory stays small for thousands of documents
        above_a = (a[n] > a[:n]).astype(np.int64) - (a[n] < a[:n])
        above_b = (b[n] > b[:n]).astype(np.int64) - (b[n] < b[:n])
        agreeing += int(above_a @ above_b)
        untied_a += int(above_a @ above_a)
        untied_b += int(above_b @ above_b)
    if not untied_a or not untied_b:
        return None
    return agreeing / math.sqrt(untied_a * untied_b)


def rank_biased_overlap(
    one: Sequence[int], other: Sequence[int], *, p: float = PERSISTENCE
) -> float:
    """Return the rank-biased overlap of two full orders of the same documents, from 0 to 1.

    The mean share of common documents in the first 1, 2, 3 … places, where each further place
    weighs `p` times less (Webber, Moffat and Zobel 2010, extrapolated: equation 23). Both orders
    hold every document, so it never reaches 0.

    Args:
        one: the documents' positions, best first, each once.
        other: the same positions in another order.
        p: from 0 (only the first place counts) to 1 (all count alike), both exclusive.

    Raises:
        ConfigError: `p` is out of range, or the orders don't hold the same documents.
    """
    if not 0 < p < 1:
        raise ConfigError(f"`p` must lie between 0 and 1, both exclusive, not {p!r}")
    _check_lengths(one, other)
    if len({*one}) != len(one) or {*one} != {*other}:
        raise ConfigError("both orders must hold the same documents, each once")
    seen_one: set[int] = set()
    seen_other: set[int] = set()
    common, total, weight = 0, 0.0, 1 - p
    for depth, (a, b) in enumerate(zip(one, other, strict=True), start=1):
        seen_one.add(a)
        seen_other.add(b)
        common += (a in seen_other) + (b in seen_one) - (a == b)
        total += weight * common / depth
        weight *= p
    return total + weight / (1 - p)  # beyond the end everything is common


def _check_lengths(one: Sequence[object], other: Sequence[object]) -> None:
    if len(one) != len(other):
        raise ConfigError(f"the lists have {len(one)} and {len(other)} documents; give the same")
