"""Ranking metrics per query, defined as trec_eval defines them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from rerank_plugins.errors import ConfigError

__all__ = ["DEFAULT_METRICS", "measure", "metric_name"]

DEFAULT_METRICS = ("MRR@10", "nDCG@10", "MAP", "Recall@10", "Success@1")

_Metric: TypeAlias = Callable[[Sequence[int], Sequence[int], int], float]
"""From the grades of a ranking, the positive grades of its query, and a cut-off, to a value."""

_NEED_CUTOFF = frozenset({"Recall", "Success", "P"})
_METRIC = re.compile(r"(?P<family>[a-z]+)(@(?P<cutoff>[1-9]\d{0,5}))?", re.IGNORECASE)


def metric_name(text: str) -> str:
    """Return the metric's name as reports spell it: `"ndcg@10"` → `"nDCG@10"`.

    Raises:
        ConfigError: there is no such metric.
    """
    found = _METRIC.fullmatch(text.strip())
    family = _SPELLINGS.get(found["family"].casefold()) if found else None
    if found is None or family is None:
        raise ConfigError(
            f"unknown metric {text!r}; valid: MRR@K, nDCG@K, MAP, MAP@K, Recall@K, Success@K, P@K"
        )
    if found["cutoff"] is None and family in _NEED_CUTOFF:
        raise ConfigError(f"{text!r} needs a cut-off, as in {family}@10")
    return family + (f"@{found['cutoff']}" if found["cutoff"] else "")


def measure(
    qrels: Mapping[str, Mapping[str, int]],
    rankings: Mapping[str, Sequence[str]],
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, dict[str, float]]:
    """Return metric → query id → value, for every query that is judged.

    The order of a ranking is taken as it is, so ties are never broken anew: equal scores keep
    the first stage's order, as `rerank_plugins.rank()` does. Grades above 0 are relevant; nDCG
    takes the grade as its gain, as trec_eval does. A query without a ranking counts as 0.

    Args:
        qrels: query id → document id → grade.
        rankings: query id → document ids, best first, none twice.
        metrics: names as `metric_name()` takes them.

    Raises:
        ConfigError: there is no such metric.
    """
    values: dict[str, dict[str, float]] = {name: {} for name in map(metric_name, metrics)}
    for query, judged in qrels.items():
        positive = sorted((grade for grade in judged.values() if grade > 0), reverse=True)
        ranked = [max(judged.get(document, 0), 0) for document in rankings.get(query, ())]
        for name, per_query in values.items():
            family, _, cutoff = name.partition("@")
            at = int(cutoff or sys.maxsize)
            per_query[query] = _METRICS[family](ranked, positive, at) if positive else 0.0
    return values


def _reciprocal_rank(ranked: Sequence[int], _: Sequence[int], cutoff: int) -> float:
    places = (place for place, grade in enumerate(ranked[:cutoff], start=1) if grade)
    return 1 / next(places, math.inf)


def _ndcg(ranked: Sequence[int], positive: Sequence[int], cutoff: int) -> float:
    return _gain(ranked[:cutoff]) / _gain(positive[:cutoff])


def _gain(grades: Sequence[int]) -> float:
    return math.fsum(grade / math.log2(1 + place) for place, grade in enumerate(grades, start=1))


def _average_precision(ranked: Sequence[int], positive: Sequence[int], cutoff: int) -> float:
    places = [place for place, grade in enumerate(ranked[:cutoff], start=1) if grade]
    precisions = (found / place for found, place in enumerate(places, start=1))
    return math.fsum(precisions) / len(positive)


def _recall(ranked: Sequence[int], positive: Sequence[int], cutoff: int) -> float:
    return _found(ranked, cutoff) / len(positive)


def _success(ranked: Sequence[int], _: Sequence[int], cutoff: int) -> float:
    return float(_found(ranked, cutoff) > 0)


def _precision(ranked: Sequence[int], _: Sequence[int], cutoff: int) -> float:
    return _found(ranked, cutoff) / cutoff


def _found(ranked: Sequence[int], cutoff: int) -> int:
    return sum(grade > 0 for grade in ranked[:cutoff])


_METRICS: dict[str, _Metric] = {
    "MRR": _reciprocal_rank,
    "nDCG": _ndcg,
    "MAP": _average_precision,
    "Recall": _recall,
    "Success": _success,
    "P": _precision,
}
_SPELLINGS = {name.casefold(): name for name in _METRICS}
