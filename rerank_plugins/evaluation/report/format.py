"""How reports write numbers, verdicts and remarks, in every format."""

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
"""With fewer queries, reports warn that intervals are rough."""
_MINUS = "\u2212"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a backend helps, as a word and as a sentence."""

    kind: Literal["better", "worse", "unclear"]
    """`"unclear"`: chance may explain the difference."""
    sentence: str


def verdict(result: Evaluation, system: System) -> Verdict:
    """Return whether a backend is better than the first stage, on the first metric."""
    baseline = result.baseline
    test = result.compared(system.label, baseline.label)
    tests = sum(comparison.metric == test.metric for comparison in result.comparisons)
    adjusted = f" adjusted for {tests} comparisons" if tests > 1 else ""
    before, after = (each.figures[test.metric].mean for each in (baseline, system))
    change = (
        f"{test.metric} {figure(before)} → {figure(after)}, {signed(test.difference.mean)} "
        f"({interval(test.difference, signed_ends=True)}, p {p_value(test)}{adjusted})"
    )
    queries = len(result.dataset.queries)
    counts = f"better on {test.better} of {queries} queries, worse on {test.worse}"
    if not test.significant:
        return Verdict("unclear", f"No clear difference: {change}; {counts}.")
    kind: Literal["better", "worse"] = "better" if test.difference.mean > 0 else "worse"
    return Verdict(kind, f"{kind.capitalize()} than {baseline.label}: {change}; {counts}.")


def figure(value: float) -> str:
    """Write the value of a metric."""
    return f"{value:.3f}"


def signed(value: float) -> str:
    """Write a difference, always with its sign."""
    shown = f"{value:+.3f}"
    return "0.000" if shown in {"+0.000", "-0.000"} else shown.replace("-", _MINUS)


def interval(estimate: Estimate, *, signed_ends: bool = False) -> str:
    """Write a confidence interval."""
    write = signed if signed_ends else figure
    return f"{write(estimate.low)} to {write(estimate.high)}"


def p_value(comparison: PairedTest) -> str:
    """Write an adjusted p-value as it follows the letter p: `"= 0.012"`."""
    value = comparison.adjusted
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"  # noqa: PLR2004


def milliseconds(seconds: float) -> str:
    """Write a time in milliseconds, to three digits."""
    value = 1000 * seconds
    digits = 2 if value < 10 else 1 if value < 100 else 0  # noqa: PLR2004
    return f"{value:,.{digits}f}"


def remarks(result: Evaluation) -> Iterator[str]:
    """Yield the caveats that a reader of the figures must know."""
    yield from result.dataset.warnings
    queries = len(result.dataset.queries)
    if queries < FEW_QUERIES:
        few = "there is only 1 query" if queries == 1 else f"there are only {queries} queries"
        yield f"{few}: the intervals are rough"
    reachable = sum(
        any(result.dataset.qrels[query].get(document, 0) > 0 for document in ids[: result.depth])
        for query, ids in result.dataset.candidates.items()
    )
    if reachable < queries:
        yield (
            f"the first {result.depth} candidates hold a relevant document for {reachable} of "
            f"{queries} queries; no reranker can help the others"
        )


def how_measured(result: Evaluation) -> list[str]:
    """Describe how the figures were computed."""
    scored = (
        f"The first {result.depth} candidates of each query are scored once; shallower depths "
        "reuse those scores. Candidates below a depth keep their order behind the others. Equal "
        "scores keep the first stage's order."
    )
    metrics = (
        f"Metrics are means over {len(result.dataset.queries)} queries, defined as in trec_eval. "
        "Grades above 0 are relevant. " + "; ".join(map(metric_description, result.metrics)) + "."
    )
    chance = (
        f"Intervals: 95 %, percentile bootstrap over the queries, {RESAMPLES:,} resamples. "
        "p: two-sided paired randomisation test, adjusted (Holm) for all comparisons on the same "
        f"metric; below {SIGNIFICANT} is called a difference. Seed {result.seed}."
    )
    times = (
        "Times: one query at a time, one call per query, without the first call, which loads the "
        "model. They depend on the machine and the moment."
    )
    return [scored, metrics, chance, times]
