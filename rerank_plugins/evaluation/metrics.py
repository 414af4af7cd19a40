"""Ranking metrics per query, defined as trec_eval defines them; one entry of `METRICS` each."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rerank_plugins.errors import ConfigError

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "METRIC_FORMS",
    "Metric",
    "measure",
    "metric_description",
    "metric_name",
]

DEFAULT_METRICS = ("MRR@10", "nDCG@10", "MAP", "Recall@10", "Success@1")

_NAME = re.compile(r"(?P<metric>[a-z]+)(@(?P<cutoff>[1-9]\d{0,5}))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric; reports, `--help` and the tests against trec_eval read everything from here."""

    name: str
    """How reports spell it, without a cut-off."""
    description: str
    """What it is, for readers of a report."""
    trec_eval: str
    """The measure of trec_eval that it equals, without a cut-off; empty if there is none."""
    trec_eval_cut: str
    """The measure of trec_eval that it equals at a cut-off, as in `"map_cut"`; or empty."""
    value: Callable[[Sequence[int], Sequence[int], int], float]
    """From the grades of a ranking, the positive grades of its query in descending order and a
    cut-off to a value from 0 to 1; higher is better."""
    needs_cutoff: bool = False
    """Whether it means nothing without a cut-off."""

    @property
    def forms(self) -> tuple[str, ...]:
        """The ways to write it: `("MAP", "MAP@K")`."""
        cut = f"{self.name}@K"
        return (cut,) if self.needs_cutoff else (self.name, cut)


def metric_name(text: str) -> str:
    """Return the metric's name as reports spell it: `"ndcg@10"` → `"nDCG@10"`.

    Raises:
        ConfigError: there is no such metric, or it needs a cut-off.
    """
    match = _NAME.fullmatch(text.strip())
    metric = _BY_SPELLING.get(match["metric"].casefold()) if match else None
    if match is None or metric is None:
        raise ConfigError(f"unknown metric {text!r}; valid: {METRIC_FORMS}")
    if match["cutoff"] is None and metric.needs_cutoff:
        raise ConfigError(f"{text!r} needs a cut-off, as in {metric.name}@10")
    return metric.name + (f"@{match['cutoff']}" if match["cutoff"] else "")


def metric_description(name: str) -> str:
    """Return what the metric is, in a phrase: `"MAP@10: the mean … of the first 10"`.

    Args:
        name: as `metric_name()` returns it.
    """
    family, _, cutoff = name.partition("@")
    within = f", within the first {cutoff}" if cutoff else ""
    return f"{name}: {METRICS[family].description}{within}"


def measure(
    qrels: Mapping[str, Mapping[str, int]],
    rankings: Mapping[str, Sequence[str]],
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, dict[str, float]]:
    """Return metric → query id → value, for every judged query.

    The order of a ranking counts as it is: ties are not broken again, since equal scores keep the
    first stage's order, as in `rerank_plugins.rank()`. Grades above 0 are relevant; nDCG takes
    the grade as its gain, as trec_eval does. A query without a ranking counts as 0.

    Args:
        qrels: query id → document id → grade.
        rankings: query id → document ids, best first, each at most once.
        metrics: names that `metric_name()` accepts.

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
            per_query[query] = METRICS[family].value(ranked, positive, at) if positive else 0.0
    return values


def _reciprocal_rank(ranked: Sequence[int], _: Sequence[int], cutoff: int) -> float:
    places = (place for place, grade in enumerate(ranked[:cutoff], start=1) if grade)
    return 1 / next(places, math.inf)


def _ndcg(ranked: Sequence[int], positive: Sequence[int], cutoff: int) -> float:
    return _discounted_gain(ranked[:cutoff]) / _discounted_gain(positive[:cutoff])


def _discounted_gain(grades: Sequence[int]) -> float:
    return math.fsum(grade / math.log2(1 + place) for place, grade in enumerate(grades, start=1))


def _average_precision(ranked: Sequence[int], positive: Sequence[int], cutoff: int) -> float:
    places = [place for place, grade in enumerate(ranked[:cutoff], start=1) if grade]
    precisions = (hits / place for hits, place in enumerate(places, start=1))
    return math.fsum(precisions) / len(positive)


def _recall(ranked: Sequence[int], positive: Sequence[int], cutoff: int) -> float:
    return _hits(ranked, cutoff) / len(positive)


def _success(ranked: Sequence[int], _: Sequence[int], cutoff: int) -> float:
    return float(_hits(ranked, cutoff) > 0)


def _precision(ranked: Sequence[int], _: Sequence[int], cutoff: int) -> float:
    return _hits(ranked, cutoff) / cutoff


def _hits(ranked: Sequence[int], cutoff: int) -> int:
    return sum(grade > 0 for grade in ranked[:cutoff])


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "MRR",
            "the reciprocal rank of the first relevant document",
            trec_eval="recip_rank",
            trec_eval_cut="",
            value=_reciprocal_rank,
        ),
        Metric(
            "nDCG",
            "the discounted gain of the grades, as a share of the best possible",
            trec_eval="ndcg",
            trec_eval_cut="ndcg_cut",
            value=_ndcg,
        ),
        Metric(
            "MAP",
            "the precision at each relevant document, averaged",
            trec_eval="map",
            trec_eval_cut="map_cut",
            value=_average_precision,
        ),
        Metric(
            "Recall",
            "the share of the relevant documents that is found",
            trec_eval="",
            trec_eval_cut="recall",
            value=_recall,
            needs_cutoff=True,
        ),
        Metric(
            "Success",
            "the share of queries with a relevant document",
            trec_eval="",
            trec_eval_cut="success",
            value=_success,
            needs_cutoff=True,
        ),
        Metric(
            "P",
            "precision, the share of documents that are relevant",
            trec_eval="",
            trec_eval_cut="P",
            value=_precision,
            needs_cutoff=True,
        ),
    )
}
"""Every metric, by its name."""

METRIC_FORMS = ", ".join(form for metric in METRICS.values() for form in metric.forms)
"""Every way to write a metric, for messages and `--help`."""

_BY_SPELLING = {name.casefold(): metric for name, metric in METRICS.items()}
