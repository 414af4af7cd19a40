"""The report as one HTML page: no script, no other file, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files

from rerank_plugins._internal.display import excerpt
from rerank_plugins._internal.html import HTML, Templates, join
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
from rerank_plugins.evaluation.report.plots import colour, depth_plot, gain_plot, latency_plot
from rerank_plugins.evaluation.report.text import speed_cells
from rerank_plugins.evaluation.results import Evaluation, PairedTest, System

__all__ = ["as_html"]

_PACKAGE = "rerank_plugins.evaluation.report"
_TEMPLATES = Templates(_PACKAGE, "report.html")
_WORDS = {"better": "better", "worse": "worse", "unclear": "no clear difference"}
_WORST = 10
"""Queries that got worse, shown per backend."""
_TOP = 5
"""Documents shown before and after."""
_EXCERPT = 280


def as_html(result: Evaluation) -> str:
    """Return the report as a whole page. It holds texts of queries and documents."""
    data, baseline = result.dataset, result.baseline
    return _TEMPLATES.fill(
        "page",
        style=HTML((files(_PACKAGE) / "style.css").read_text(encoding="utf-8")),
        name=data.name,
        queries=f"{len(data.queries):,}",
        depth=result.depth,
        first_stage=data.first_stage,
        baseline=baseline.label,
        metric=result.metrics[0],
        up=_TEMPLATES.fill("up"),
        down=_TEMPLATES.fill("down"),
        cards=join(_card(result, system) for system in result.backends),
        remarks=join(_TEMPLATES.fill("remark", remark=remark) for remark in remarks(result)),
        quality=_quality(result),
        plots=join(_plots(result)),
        legend=HTML(" ".join(_backend(result, system) for system in result.systems)),
        gains=join(_gain(result, system) for system in result.backends),
        worse=join(_worse(result, system) for system in result.backends),
        depths=_depths(result),
        pairs=_pairs(result) if len(result.backends) > 1 else "",
        notes=join(_notes(result)),
    )


def _plots(result: Evaluation) -> Iterator[HTML]:
    metric = result.metrics[0]
    plots = (
        ("Quality against latency", f"{metric} and time at each depth", latency_plot(result)),
        ("How deep to rerank", f"{metric} with its 95 % interval", depth_plot(result)),
    )
    for title, about, plot in plots:
        if plot:
            yield _TEMPLATES.fill("plot", title=title, about=about, plot=plot)


def _gain(result: Evaluation, system: System) -> HTML:
    plot = gain_plot(result, system)
    return _TEMPLATES.fill("gain", backend=_backend(result, system), plot=plot)


def _notes(result: Evaluation) -> Iterator[HTML]:
    for note in how_measured(result):
        yield _TEMPLATES.fill("note", note=note)
    for system in result.backends:
        yield _TEMPLATES.fill("name", label=system.label, name=system.name)
    if result.dataset.credit:
        yield _TEMPLATES.fill("note", note=result.dataset.credit)


def _backend(result: Evaluation, system: System) -> HTML:
    swatch = "base" if system is result.baseline else colour(result, system)
    return _TEMPLATES.fill("backend", colour=swatch, label=system.label)


def _card(result: Evaluation, system: System) -> HTML:
    test = result.compared(system.label, result.baseline.label)
    kind = verdict(result, system).kind
    return _TEMPLATES.fill(
        "card",
        verdict=kind,
        word=_WORDS[kind],
        backend=_backend(result, system),
        metric=test.metric,
        difference=signed(test.difference.mean),
        before=figure(result.baseline.figures[test.metric].mean),
        after=figure(system.figures[test.metric].mean),
        interval=interval(test.difference, signed_ends=True),
        p=p_value(test),
        better=test.better,
        worse=test.worse,
        queries=f"{len(result.dataset.queries):,}",
        timing=_timing(system),
    )


def _timing(system: System) -> str:
    if system.speed is None:
        return "not timed"
    return _TEMPLATES.fill(
        "timing",
        median=milliseconds(system.speed.percentile(50)),
        p95=milliseconds(system.speed.percentile(95)),
        pairs=f"{system.speed.pairs_per_second:,.0f}",
    )


def _table(titles: Iterable[str], rows: Iterable[Sequence[str]]) -> HTML:
    lines = (join(_TEMPLATES.fill("cell", value=value) for value in row) for row in rows)
    return _TEMPLATES.fill(
        "table",
        head=join(_TEMPLATES.fill("title", title=title) for title in titles),
        rows=join(_TEMPLATES.fill("row", cells=cells) for cells in lines),
    )


def _quality(result: Evaluation) -> HTML:
    rows = (
        [_backend(result, system), *(_quality_cell(result, system, m) for m in result.metrics)]
        for system in result.systems
    )
    return _table(["", *result.metrics], rows)


def _quality_cell(result: Evaluation, system: System, metric: str) -> HTML:
    estimate = system.figures[metric]
    best = max(other.figures[metric].mean for other in result.systems)
    shown: str = figure(estimate.mean)
    if estimate.mean == best:
        shown = _TEMPLATES.fill("best", figure=shown)
    arrow = HTML()
    if system is not result.baseline:
        arrow = _arrow(result.compared(system.label, result.baseline.label, metric))
    return _TEMPLATES.fill("figure", figure=shown, arrow=arrow, interval=interval(estimate))


def _arrow(test: PairedTest) -> HTML:
    if not test.significant:
        return HTML()
    return _TEMPLATES.fill("up" if test.difference.mean > 0 else "down")


def _depths(result: Evaluation) -> HTML:
    titles = ["", "depth", *result.metrics, "p50 ms", "p95 ms", "p99 ms", "pairs/s", "calls"]
    rows = (
        [
            _backend(result, system) if place == 0 else "",
            str(row.depth),
            *(figure(estimate.mean) for estimate in row.figures.values()),
            *speed_cells(row.speed),
        ]
        for system in result.backends
        for place, row in enumerate(system.by_depth)
    )
    return _table(titles, rows)


def _pairs(result: Evaluation) -> HTML:
    rows = (
        [
            test.metric,
            test.label,
            test.against,
            _TEMPLATES.fill(
                "difference", difference=signed(test.difference.mean), arrow=_arrow(test)
            ),
            interval(test.difference, signed_ends=True),
            p_value(test).removeprefix("= "),
            f"{test.better} / {test.worse}",
        ]
        for test in result.comparisons
        if test.against != result.baseline.label
    )
    titles = ["metric", "", "compared with", "difference", "95 % interval", "p", "better / worse"]
    return _TEMPLATES.fill("pairs", table=_table(titles, rows))


def _worse(result: Evaluation, system: System) -> HTML:
    metric = result.metrics[0]
    before, after = result.baseline.values[metric], system.values[metric]
    drops = sorted(
        (a - b, query)
        for query, b, a in zip(result.dataset.queries, before, after, strict=True)
        if a < b
    )
    backend = _backend(result, system)
    if not drops:
        return _TEMPLATES.fill("none-worse", backend=backend)
    count = "1 query" if len(drops) == 1 else f"{len(drops):,} queries"
    count += f", the {_WORST} with the largest drops" if len(drops) > _WORST else ""
    queries = (
        _TEMPLATES.fill(
            "query" if place else "open-query", content=_drop(result, system, drop, query)
        )
        for place, (drop, query) in enumerate(drops[:_WORST])
    )
    return _TEMPLATES.fill("worse", backend=backend, count=count, queries=join(queries))


def _drop(result: Evaluation, system: System, drop: float, query: str) -> HTML:
    baseline = result.baseline
    before = _ranking(result, query, baseline, system, f"before: {baseline.label}")
    after = _ranking(result, query, system, baseline, f"after: {system.label}")
    return _TEMPLATES.fill(
        "drop",
        drop=signed(drop),
        query=excerpt(result.dataset.queries[query], _EXCERPT),
        rankings=join((before, after)),
    )


def _ranking(result: Evaluation, query: str, shown: System, other: System, title: str) -> HTML:
    """Show the first documents of a ranking, each with its place in the other one."""
    data, ids = result.dataset, shown.rankings[query]
    relevant = [document for document in ids if data.qrels[query].get(document, 0) > 0]
    documents = list(ids[:_TOP])
    documents += [document for document in relevant[:1] if document not in documents]
    items = (
        _TEMPLATES.fill(
            "relevant" if document in relevant else "document",
            place=ids.index(document) + 1,
            text=excerpt(data.documents[document], _EXCERPT) or "(empty)",
            document=document,
            when="after" if shown is result.baseline else "before",
            elsewhere=other.rankings[query].index(document) + 1,
        )
        for document in documents
    )
    return _TEMPLATES.fill("ranking", title=title, documents=join(items))
