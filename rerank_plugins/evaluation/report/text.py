"""The report as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rerank_plugins._internal.terminal import to_json
from rerank_plugins.evaluation.report.format import (
    figure,
    how_measured,
    interval,
    milliseconds,
    p_value,
    remarks,
    signed,
    verdict,
)
from rerank_plugins.evaluation.results import DepthResult, Evaluation, Latency

__all__ = ["as_json", "as_markdown"]


def as_json(result: Evaluation) -> str:
    """Return everything but the texts as one JSON document; values are exact, times in seconds."""
    data = result.dataset
    document = {
        "dataset": {
            "name": data.name,
            "digest": data.digest,
            "queries": len(data.queries),
            "first_stage": data.first_stage,
            "credit": data.credit,
        },
        "warnings": list(remarks(result)),
        "metrics": result.metrics,
        "depth": result.depth,
        "seed": result.seed,
        "systems": [
            {
                "label": system.label,
                "name": system.name,
                "figures": {metric: asdict(value) for metric, value in system.figures.items()},
                "depths": [_depth_fields(row) for row in system.by_depth],
                "per_query": {
                    metric: dict(zip(data.queries, values, strict=True))
                    for metric, values in system.values.items()
                },
            }
            for system in result.systems
        ],
        "comparisons": [
            asdict(comparison) | {"significant": comparison.significant}
            for comparison in result.comparisons
        ],
    }
    return to_json(document)


def _depth_fields(row: DepthResult) -> dict[str, Any]:
    figures = {metric: asdict(value) for metric, value in row.figures.items()}
    return {"depth": row.depth, "figures": figures, "speed": _speed(row.speed)}


def _speed(speed: Latency | None) -> dict[str, Any] | None:
    if speed is None:
        return None
    percentiles = {f"p{percent}": speed.percentile(percent) for percent in (50, 95, 99)}
    return {
        **percentiles,
        "calls": len(speed.seconds),
        "pairs": speed.pairs,
        "pairs_per_second": speed.pairs_per_second,
    }


def as_markdown(result: Evaluation) -> str:
    """Return the verdicts and the tables as Markdown."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: Evaluation) -> Iterator[str]:
    data = result.dataset
    yield f"# Reranking {_cell(data.name)}\n"
    queries, stage = len(data.queries), _cell(data.first_stage)
    yield f"{queries} queries, {result.depth} candidates of {stage} each.\n"
    for system in result.backends:
        yield f"- **{_cell(system.label)}**: {_cell(verdict(result, system).sentence)}"
    yield "\n## Quality\n"
    yield from _table(
        ["", *result.metrics],
        (
            [
                system.label,
                *(
                    f"{figure(estimate.mean)} ({interval(estimate)})"
                    for estimate in system.figures.values()
                ),
            ]
            for system in result.systems
        ),
    )
    yield "\nIn brackets: 95 % confidence interval.\n\n## Differences\n"
    yield from _table(
        ["metric", "", "compared with", "difference", "95 % interval", "p", "better", "worse"],
        (
            [
                test.metric,
                test.label,
                test.against,
                signed(test.difference.mean),
                interval(test.difference, signed_ends=True),
                p_value(test).removeprefix("= "),
                str(test.better),
                str(test.worse),
            ]
            for test in result.comparisons
        ),
    )
    yield "\n## Depth and speed\n"
    yield from _table(
        ["", "depth", *result.metrics, "p50 ms", "p95 ms", "p99 ms", "pairs/s", "calls"],
        (
            [
                system.label,
                str(row.depth),
                *(figure(estimate.mean) for estimate in row.figures.values()),
                *speed_cells(row.speed),
            ]
            for system in result.backends
            for row in system.by_depth
        ),
    )
    yield "\n## How to read this\n"
    for remark in (*remarks(result), *how_measured(result), data.credit):
        if remark:
            yield f"- {_cell(remark)}"


def speed_cells(speed: Latency | None) -> list[str]:
    """Return the percentiles in milliseconds, the pairs per second and the number of calls."""
    if speed is None:
        return ["–"] * 5
    return [
        *(milliseconds(speed.percentile(percent)) for percent in (50, 95, 99)),
        f"{speed.pairs_per_second:,.0f}",
        str(len(speed.seconds)),
    ]


def _table(head: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
