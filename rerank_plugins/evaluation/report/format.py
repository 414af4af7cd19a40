"""The words and numbers that all forms of a report share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rerank_plugins.evaluation.metrics import metric_description
from rerank_plugins.evaluation.results import SIGNIFICANT, Evaluation, PairedTest, System
from rerank_plugins.evaluation.statistics import RESAMPLES, Estimate

__all__ = [
    "Verdict",
    "figure",
    "how_measured",
    "interval",
    "milliseconds",
    "p_value",
    "remarks",
    "signed",
    "verdict",
]

FEW_QUERIES = 30
"""Below this many queries, reports say that intervals are rough."""
_MINUS = "\u2212"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a backend helped, in a word and in a sentence."""

    kind: Literal["better", "worse", "unclear"]
    """`"unclear"`: chance could explain the difference."""
    sentence: str


def verdict(found: Evaluation, system: System) -> Verdict:
    """Say whether a backend is better than the first stage, on the first metric."""
    result = found.compared(system.label, found.baseline.label)
    metric = result.metric
    before, after = (each.figures[metric].mean for each in (found.baseline, system))
    change = (
        f"{metric} {figure(before)} → {figure(after)}, {signed(result.difference.mean)} "
        f"({interval(result.difference, signed_ends=True)}, p {p_value(result)})"
    )
    counts = f"better on {result.better} of {len(found.dataset.queries)} queries, worse on "
    if not result.significant:
        return Verdict("unclear", f"No clear difference: {change}; {counts}{result.worse}.")
    kind: Literal["better", "worse"] = "better" if result.difference.mean > 0 else "worse"
    word = "Better" if kind == "better" else "Worse"
    return Verdict(kind, f"{word} than {found.baseline.label}: {change}; {counts}{result.worse}.")


def figure(value: float) -> str:
    """Write the value of a metric."""
    return f"{value:.3f}"


def signed(value: float) -> str:
    """Write a difference, always with its sign."""
    shown = f"{value:+.3f}"
    return "0.000" if shown in {"+0.000", "-0.000"} else shown.replace("-", _MINUS)


def interval(estimate: Estimate, *, signed_ends: bool = False) -> str:
    """Write an interval of confidence."""
    write = signed if signed_ends else figure
    return f"{write(estimate.low)} to {write(estimate.high)}"


def p_value(comparison: PairedTest) -> str:
    """Write an adjusted p-value, to stand behind the letter p."""
    value = comparison.adjusted
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"  # noqa: PLR2004


def milliseconds(seconds: float) -> str:
    """Write a time in milliseconds, to three digits."""
    value = 1000 * seconds
    digits = 2 if value < 10 else 1 if value < 100 else 0  # noqa: PLR2004
    return f"{value:,.{digits}f}"


def remarks(found: Evaluation) -> Iterator[str]:
    """Say what a reader must know to read the figures right."""
    yield from found.dataset.warnings
    queries = len(found.dataset.queries)
    if queries < FEW_QUERIES:
        many = "there is 1 query only" if queries == 1 else f"there are {queries} queries only"
        yield f"{many}: read the intervals as rough"
    reach = sum(
        any(found.dataset.qrels[query].get(document, 0) > 0 for document in ids[: found.depth])
        for query, ids in found.dataset.candidates.items()
    )
    if reach < queries:
        yield (
            f"the first {found.depth} candidates hold a relevant document for {reach} of {queries} "
            "queries; no reranker can do anything for the others"
        )


def how_measured(found: Evaluation) -> list[str]:
    """Say how the figures came about."""
    scored = (
        f"The first {found.depth} candidates of each query were scored once; shallower depths are "
        "cut from that. Candidates below keep their order behind. Equal scores keep the first "
        "stage's order."
    )
    metrics = (
        f"Metrics are means over {len(found.dataset.queries)} queries, defined as in trec_eval. "
        "Grades above 0 are relevant. " + "; ".join(map(metric_description, found.metrics)) + "."
    )
    chance = (
        f"Intervals: 95 %, percentile bootstrap over the queries, {RESAMPLES:,} resamples. "
        "p: two-sided paired randomisation test, adjusted (Holm) for all comparisons on the same "
        f"metric; below {SIGNIFICANT} is called a difference. Seed {found.seed}."
    )
    times = (
        "Times: one query at a time, one call per query, without the first call that loads the "
        "model. They belong to this machine and moment."
    )
    return [scored, metrics, chance, times]
