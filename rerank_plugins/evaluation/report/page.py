"""The report as one HTML page: no script, no other file, light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from rerank_plugins._internal.display import excerpt
from rerank_plugins.evaluation.report.format import (
    Verdict,
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

_WORDS = {"better": "better", "worse": "worse", "unclear": "no clear difference"}
_WORST = 10
"""Queries that got worse, shown per backend."""
_TOP = 5
"""Documents shown before and after."""
_EXCERPT = 280
_UP, _DOWN = "<span class=good>▲</span>", "<span class=bad>▼</span>"


def as_html(found: Evaluation) -> str:
    """Return the report as a whole page. It holds texts of queries and documents."""
    title = escape(f"Reranking {found.dataset.name}")
    style = (files("rerank_plugins.evaluation.report") / "style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title>'
        f"<style>{style}</style></head>"
        f"<body><main>{''.join(_sections(found))}</main></body></html>\n"
    )


def _sections(found: Evaluation) -> Iterator[str]:
    data = found.dataset
    metric = escape(found.metrics[0])
    yield (
        f"<header><p class=over>Does reranking help?</p><h1>{escape(data.name)}</h1>"
        f"<p class=muted>{len(data.queries):,} queries · {found.depth} candidates of "
        f"{escape(data.first_stage)} each</p></header>"
    )
    cards = "".join(_card(found, system) for system in found.backends)
    yield f"<section class=cards>{cards}</section>"
    yield "".join(f"<p class=remark>{escape(remark)}</p>" for remark in remarks(found))
    yield f"<section><h2>Quality</h2>{_quality(found)}</section>"
    pictures = [
        ("Quality against latency", f"{metric} and time at each depth", latency_plot(found)),
        ("How deep to rerank", f"{metric} with its 95 % interval", depth_plot(found)),
    ]
    yield "<section class=pair>"
    yield "".join(
        f"<figure><figcaption><b>{title}</b> <span>{about}</span></figcaption>{picture}</figure>"
        for title, about, picture in pictures
        if picture
    )
    yield f"</section>{_legend(found)}"
    yield f"<section><h2>Gain of each query</h2><p class=muted>{metric} minus that of "
    yield f"{escape(found.baseline.label)}, the best first</p>"
    for system in found.backends:
        yield (
            f"<figure><figcaption>{_named(found, system)}</figcaption>"
            f"<div class=wide>{gain_plot(found, system)}</div></figure>"
        )
    yield "</section><section><h2>Queries that got worse</h2>"
    for system in found.backends:
        yield _worse(found, system)
    yield f"</section><section><h2>Depth and speed</h2>{_depths(found)}</section>"
    if len(found.backends) > 1:
        yield f"<section><h2>Backends compared</h2>{_pairs(found)}</section>"
    lines = "".join(f"<li>{escape(line)}</li>" for line in how_measured(found))
    names = "".join(
        f"<li>{escape(system.label)}: <code>{escape(system.name)}</code></li>"
        for system in found.backends
    )
    credit = f"<li>{escape(data.credit)}</li>" if data.credit else ""
    yield "<section class=how><h2>How this was measured</h2>"
    yield f"<ul>{lines}{names}{credit}</ul></section>"


def _named(found: Evaluation, system: System) -> str:
    mark = "base" if system is found.baseline else colour(found, system)
    return f'<i class="swatch {mark}"></i><b>{escape(system.label)}</b>'


def _card(found: Evaluation, system: System) -> str:
    result = found.compared(system.label, found.baseline.label)
    judged: Verdict = verdict(found, system)
    before, after = (each.figures[result.metric].mean for each in (found.baseline, system))
    speed = system.speed
    timing = (
        f"{milliseconds(speed.percentile(50))} ms per query (p95 "
        f"{milliseconds(speed.percentile(95))}), "
        f"<span class=whole>{speed.pairs_per_second:,.0f} pairs/s</span>"
        if speed
        else "not timed"
    )
    return (
        f'<article class="card {judged.kind}"><p class=name>{_named(found, system)}'
        f"<em>{_WORDS[judged.kind]}</em></p>"
        f"<p class=big>{signed(result.difference.mean)}<small>{escape(result.metric)}</small></p>"
        f"<p>{figure(before)} → <b>{figure(after)}</b></p>"
        f"<p class=muted>95 % interval {interval(result.difference, signed_ends=True)}, "
        f"<span class=whole>p {escape(p_value(result))}</span></p>"
        f"<p class=muted>better on {result.better}, worse on {result.worse} of "
        f"{len(found.dataset.queries):,} queries</p><p class=muted>{timing}</p></article>"
    )


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    titles = "".join(f"<th>{title}</th>" for title in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    head_row = f"<thead><tr>{titles}</tr></thead>"
    return f"<div class=scroll><table>{head_row}<tbody>{lines}</tbody></table></div>"


def _quality(found: Evaluation) -> str:
    best = {metric: max(s.figures[metric].mean for s in found.systems) for metric in found.metrics}

    def cell(system: System, metric: str) -> str:
        estimate = system.figures[metric]
        shown = figure(estimate.mean)
        shown = f"<b>{shown}</b>" if estimate.mean == best[metric] else shown
        mark = ""
        if system is not found.baseline:
            result = found.compared(system.label, found.baseline.label, metric)
            mark = _arrow(result)
        return f"{shown}{mark}<small>{interval(estimate)}</small>"

    rows = (
        [_named(found, system), *(cell(system, metric) for metric in found.metrics)]
        for system in found.systems
    )
    note = (
        f"<p class=muted>Small: 95 % interval. {_UP} and {_DOWN}: "
        f"differs from {escape(found.baseline.label)} by more than chance explains (p &lt; 0.05, "
        "adjusted).</p>"
    )
    return _table(["", *map(escape, found.metrics)], rows) + note


def _arrow(result: PairedTest) -> str:
    if not result.significant:
        return ""
    return " " + (_UP if result.difference.mean > 0 else _DOWN)


def _legend(found: Evaluation) -> str:
    return f"<p class=legend>{' '.join(_named(found, s) for s in found.systems)}</p>"


def _depths(found: Evaluation) -> str:
    head = [
        "",
        "depth",
        *map(escape, found.metrics),
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "pairs/s",
        "calls",
    ]
    rows = (
        [
            _named(found, system) if place == 0 else "",
            str(cut.depth),
            *(figure(estimate.mean) for estimate in cut.figures.values()),
            *speed_cells(cut.speed),
        ]
        for system in found.backends
        for place, cut in enumerate(system.cuts)
    )
    return _table(head, rows)


def _pairs(found: Evaluation) -> str:
    rows = (
        [
            escape(result.metric),
            escape(result.label),
            escape(result.against),
            signed(result.difference.mean) + _arrow(result),
            interval(result.difference, signed_ends=True),
            escape(p_value(result).removeprefix("= ")),
            f"{result.better} / {result.worse}",
        ]
        for result in found.comparisons
        if result.against != found.baseline.label
    )
    head = ["metric", "", "compared with", "difference", "95 % interval", "p", "better / worse"]
    return _table(head, rows)


def _worse(found: Evaluation, system: System) -> str:
    metric = found.metrics[0]
    before, after = found.baseline.values[metric], system.values[metric]
    drops = sorted(
        (a - b, query)
        for query, b, a in zip(found.dataset.queries, before, after, strict=True)
        if a < b
    )
    if not drops:
        return f"<p>{_named(found, system)}: none.</p>"
    more = f", the {_WORST} that lost most" if len(drops) > _WORST else ""
    count = "1 query" if len(drops) == 1 else f"{len(drops):,} queries"
    shown = "".join(
        _drop(found, system, drop, query, opened=place == 0)
        for place, (drop, query) in enumerate(drops[:_WORST])
    )
    return f"<p>{_named(found, system)}: {count}{more}.</p>{shown}"


def _drop(found: Evaluation, system: System, drop: float, query: str, *, opened: bool) -> str:
    columns = "".join(
        f"<div><h3>{escape(title)}</h3>{_ranking(found, query, other, order)}</div>"
        for title, other, order in (
            (f"before: {found.baseline.label}", system, found.baseline),
            (f"after: {system.label}", found.baseline, system),
        )
    )
    text = escape(excerpt(found.dataset.queries[query], _EXCERPT))
    return (
        f"<details{' open' if opened else ''}>"
        f"<summary><span class=bad>{signed(drop)}</span> <bdi>{text}</bdi></summary>"
        f"<div class=two>{columns}</div></details>"
    )


def _ranking(found: Evaluation, query: str, other: System, order: System) -> str:
    data = found.dataset
    ids = order.rankings[query]
    relevant = [document for document in ids if data.qrels[query].get(document, 0) > 0]
    shown = list(ids[:_TOP])
    shown += [document for document in relevant[:1] if document not in shown]
    when = "after" if order is found.baseline else "before"
    items = []
    for document in shown:
        place, elsewhere = ids.index(document) + 1, other.rankings[query].index(document) + 1
        good = document in relevant
        chip = "<em>relevant</em> " if good else ""
        items.append(
            f'<li value="{place}"{" class=relevant" if good else ""}>{chip}'
            f"<bdi>{escape(excerpt(data.documents[document], _EXCERPT)) or '(empty)'}</bdi>"
            f"<small>{escape(document)} · place {when}: {elsewhere}</small></li>"
        )
    return f"<ol>{''.join(items)}</ol>"
