"""Ranking metrics per query, computed by `ir-measures` (trec_eval's code)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rerank_plugins._optional import require
from rerank_plugins.errors import ConfigError

__all__ = ["DEFAULT_METRICS", "measure", "metric_name"]

DEFAULT_METRICS = ("MRR@10", "nDCG@10", "MAP", "Recall@10", "Success@1")

_FAMILIES = {
    "mrr": "RR",
    "ndcg": "nDCG",
    "map": "AP",
    "recall": "R",
    "success": "Success",
    "p": "P",
}
_SPELLINGS = {name.casefold(): name for name in ("MRR", "nDCG", "MAP", "Recall", "Success", "P")}
_NEED_CUTOFF = frozenset({"recall", "success", "p"})
_METRIC = re.compile(r"(?P<family>[a-z]+)(@(?P<cutoff>[1-9]\d{0,5}))?", re.IGNORECASE)


def metric_name(text: str) -> str:
    """Return the metric's name as reports spell it: `"ndcg@10"` → `"nDCG@10"`.

    Raises:
        ConfigError: there is no such metric.
    """
    found = _METRIC.fullmatch(text.strip())
    family = found["family"].casefold() if found else ""
    if found is None or family not in _FAMILIES:
        raise ConfigError(
            f"unknown metric {text!r}; valid: MRR@K, nDCG@K, MAP, MAP@K, Recall@K, Success@K, P@K"
        )
    if found["cutoff"] is None and family in _NEED_CUTOFF:
        raise ConfigError(f"{text!r} needs a cut-off, as in {_SPELLINGS[family]}@10")
    return _SPELLINGS[family] + (f"@{found['cutoff']}" if found["cutoff"] else "")


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
        MissingDependencyError: `ir-measures` is not installed.
    """
    ir_measures = require("ir_measures", extra="eval")
    names = {_measure(ir_measures, name): name for name in map(metric_name, metrics)}
    values: dict[str, dict[str, float]] = {
        name: dict.fromkeys(qrels, 0.0) for name in names.values()
    }
    grades = {
        query: {document: max(grade, 0) for document, grade in judged.items()}
        for query, judged in qrels.items()
    }
    run = {
        query: {document: float(-place) for place, document in enumerate(documents)}
        for query, documents in rankings.items()
    }
    for value in ir_measures.iter_calc(list(names), grades, run):
        values[names[value.measure]][value.query_id] = value.value
    return values


def _measure(ir_measures: Any, name: str) -> Any:
    family, _, cutoff = name.partition("@")
    measure = getattr(ir_measures, _FAMILIES[family.casefold()])
    return measure @ int(cutoff) if cutoff else measure
