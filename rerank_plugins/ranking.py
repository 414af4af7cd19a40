"""From scores to an order: the only place that sorts and cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank_plugins._internal.checks import check_integer
from rerank_plugins.errors import ConfigError
from rerank_plugins.scores import Scores, check_scores, is_finite

__all__ = ["Ranked", "check_cut", "rank"]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document's place in a ranking."""

    index: int
    """Position of the document in the list that was scored, from 0."""
    score: float
    """Its score, on the scale of the backend."""


def rank(
    scores: Sequence[float], *, top_n: int | None = None, min_score: float | None = None
) -> list[Ranked]:
    """Order documents by score, best first; equal scores keep their input order.

    Args:
        scores: one finite number per document, as `Backend.score` returns them.
        top_n: keep at most this many; None keeps all, 0 none.
        min_score: keep scores of at least this, on the scale of the scores.

    Raises:
        ConfigError: `top_n` is negative or not an integer, or `min_score` is not finite.
        InvalidResponse: it is no list, or a score is not a finite number.
    """
    check_cut(top_n=top_n, min_score=min_score)
    finite = scores.values if isinstance(scores, Scores) else check_scores(scores)
    order = sorted(range(len(finite)), key=finite.__getitem__, reverse=True)
    ranked = [Ranked(index, finite[index]) for index in order]
    if min_score is not None:
        ranked = [item for item in ranked if item.score >= min_score]
    return ranked[:top_n]


def check_cut(*, top_n: int | None, min_score: float | None) -> None:
    """Check the two settings of `rank()`; adapters call it when they are built.

    Raises:
        ConfigError: `top_n` is negative or not an integer, or `min_score` is not finite.
    """
    check_integer("top_n", top_n, least=0, optional=True)
    if min_score is not None and not is_finite(min_score):
        raise ConfigError(f"`min_score` must be None or a finite number, not {min_score!r}")
