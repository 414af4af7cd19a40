"""Rank-biased overlap: how alike two rankings of the same documents are."""

from __future__ import annotations

from collections.abc import Sequence

from rerank_plugins.errors import ConfigError

__all__ = ["PERSISTENCE", "rank_biased_overlap"]

PERSISTENCE = 0.9
"""RBO's p: 86 % of the weight lies on the first ten places (Webber et al. 2010, equation 21)."""


def rank_biased_overlap(
    one: Sequence[int], other: Sequence[int], *, p: float = PERSISTENCE
) -> float:
    """Return the rank-biased overlap of two rankings of the same documents, from 0 to 1.

    The mean share of common documents in the first 1, 2, 3 … places, where each further place
    weighs `p` times less (Webber, Moffat and Zobel 2010, extrapolated: equation 23). Both rankings
    hold every document, so the overlap is above 0.

    Args:
        one: the documents' positions, best first, each once.
        other: the same positions in another order.
        p: from 0 (only the first place counts) to 1 (all places count alike), both exclusive.

    Raises:
        ConfigError: `p` is out of range, or the rankings don't hold the same documents.
    """
    if not 0 < p < 1:
        raise ConfigError(f"`p` must lie between 0 and 1, both exclusive, not {p!r}")
    if len(one) != len(other):
        raise ConfigError(f"the rankings hold {len(one)} and {len(other)} documents; give the same")
    if len({*one}) != len(one) or {*one} != {*other}:
        raise ConfigError("both rankings must hold the same documents, each once")
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
