"""Check in four small requests the promises that every backend keeps, whatever its model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rerank_plugins.backend import Backend
from rerank_plugins.errors import InvalidResponse
from rerank_plugins.scores import check_scores

__all__ = ["check_conformance"]

_QUERY = "what is a panda?"
_DOCUMENTS = ("A bear of China.", "A city.", "", "大熊猫", "A\nfish 🐟")


def check_conformance(backend: Backend) -> None:
    """Check that scores are finite, and depend on the query and their own document alone.

    A listwise backend (`pointwise` is False) must only give finite scores, and the same ones for
    the same request. Half precision moves scores from batch to batch, so scores count as the same
    within 1 % or 0.002.

    Raises:
        InvalidResponse: the backend breaks a promise; the message names it, with the scores.
        BackendError: the backend failed.
    """
    first = check_scores(backend.score(_QUERY, _DOCUMENTS), len(_DOCUMENTS))
    again = backend.score(_QUERY, _DOCUMENTS)
    _compare(first, again, "the same request got different scores")
    if not backend.pointwise:
        return
    backwards = backend.score(_QUERY, _DOCUMENTS[::-1])
    _compare(first[::-1], backwards, "a score depends on the order of the documents")
    equal = backend.score(_QUERY, _DOCUMENTS[:1] * 3)
    _compare(first[:1] * 3, equal, "equal documents got different scores")


def _compare(expected: Sequence[float], scores: Sequence[object], complaint: str) -> None:
    for one, other in zip(expected, check_scores(scores, len(expected)), strict=True):
        if not math.isclose(one, other, rel_tol=0.01, abs_tol=0.002):
            raise InvalidResponse(f"{complaint}: {one:g} and {other:g}")
