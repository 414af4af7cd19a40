"""A comparison as HTML: a column per ordering, and lines that follow each document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rerank_plugins._internal.display import COLOURS, STYLES, as_bar, excerpt, moved
from rerank_plugins._internal.html import HTML, Templates, join

if TYPE_CHECKING:
    from rerank_plugins.evaluation.compare import Comparison, Ordering

__all__ = ["as_chart", "as_page"]

_TEMPLATES = Templates(
    "rerank_plugins.evaluation.report",
    "comparison.html",
    constants={
        **STYLES,
        "cut": "white-space:nowrap;overflow:hidden;text-overflow:ellipsis",
        "cell": "padding:5px 18px 5px 8px;border:0;text-align:start;vertical-align:top;"
        "font:inherit;background:none;color:inherit;white-space:normal",
    },
)
_ROW, _HEAD, _GAP, _COLUMN, _STUB = 32, 46, 56, 156, 16
"""Heights and widths in pixels."""
_SCORED_COLUMNS = 3
"""With more columns there is no room for the scores."""
_STROKES = COLOURS | {"same": "#8a8f98"}
_SHOWN, _HOVERED, _READ = 160, 1500, 4000


def as_page(comparison: Comparison) -> str:
    """Draw the comparison as a page of its own that highlights the document under the mouse."""
    return _TEMPLATES.fill(
        "page",
        title=excerpt(comparison.query, _SHOWN),
        highlights=join(_TEMPLATES.fill("highlight", n=n) for n in comparison.shown),
        chart=as_chart(comparison),
    )


def as_chart(comparison: Comparison) -> HTML:
    """Draw the comparison for a notebook: one self-contained piece of HTML without scripts."""
    count = len(comparison.documents)
    summary = f"{count} document{'' if count == 1 else 's'} · first {comparison.top_n} places shown"
    if count > comparison.top_n:
        summary += ", dotted lines lead below"
    parts = []
    if comparison.top_n:
        parts = [_orderings(comparison), _agreement(comparison), _texts(comparison)]
    return _TEMPLATES.fill(
        "chart", query=excerpt(comparison.query, 300), summary=summary, body=join(parts)
    )


def _orderings(comparison: Comparison) -> HTML:
    orderings = comparison.orderings
    columns = [_column(comparison, orderings[0])]
    for left, right in pairwise(orderings):
        columns += [_lines(comparison, left, right), _column(comparison, right)]
    width = len(orderings) * _COLUMN + (len(orderings) - 1) * _GAP
    return _TEMPLATES.fill("orderings", width=width, columns=join(columns))


def _column(comparison: Comparison, ordering: Ordering) -> HTML:
    rows = [_row(comparison, ordering, position) for position in ordering.order[: comparison.top_n]]
    return _TEMPLATES.fill(
        "column",
        width=_COLUMN,
        height=_HEAD,
        title=excerpt(_backend(ordering)),
        label=ordering.label,
        note=_note(ordering),
        rows=join(rows),
    )


def _backend(ordering: Ordering) -> str:
    if ordering.scores is None:
        return "the order in which the documents were found"
    return ordering.scores.backend or ordering.label


def _note(ordering: Ordering) -> str:
    if ordering.scores is None:
        return "as found"
    tied = sum(times for times in Counter(ordering.scores).values() if times > 1)
    truncated = len(ordering.scores.truncated)
    notes = {
        ordering.scores.scale: ordering.scores.scale != "unknown",
        f"{tied} tied, kept as found": tied > 0,
        f"{truncated} truncated": truncated > 0,
    }
    return " · ".join(note for note, holds in notes.items() if holds) or "scores"


def _row(comparison: Comparison, ordering: Ordering, position: int) -> HTML:
    rank, document = ordering.ranks[position], comparison.documents[position]
    hints = [] if comparison.ids is None else [excerpt(comparison.ids[position], _SHOWN)]
    move = score = HTML()
    if ordering.scores is not None:
        direction, arrow = moved(position + 1, rank)
        move = _TEMPLATES.fill("move", colour=COLOURS[direction], move=arrow)
        value = ordering.scores[position]
        shown = f"{value:.2f}" if abs(value) < 1000 else f"{value:.3g}"  # noqa: PLR2004
        hints.append(shown)
        if len(comparison.orderings) <= _SCORED_COLUMNS:
            score = _TEMPLATES.fill("score", score=shown)
    return _TEMPLATES.fill(
        "row",
        n=position,
        more=" · ".join([*hints, excerpt(document, _HOVERED)]),
        height=_ROW,
        rank=rank,
        move=move,
        text=excerpt(document, _SHOWN) or _TEMPLATES.fill("empty"),
        score=score,
    )


def _lines(comparison: Comparison, left: Ordering, right: Ordering) -> HTML:
    """Draw a line per document; a dotted stub leads to or from a place that is not shown."""
    top = comparison.top_n
    paths = [
        _path(position, left.ranks[position], right.ranks[position], top)
        for position in comparison.shown
        if min(left.ranks[position], right.ranks[position]) <= top
    ]
    return _TEMPLATES.fill("lines", width=_GAP, height=top * _ROW, top=_HEAD, paths=join(paths))


def _path(position: int, was: int, now: int, top: int) -> HTML:
    y1, y2 = (rank * _ROW - _ROW // 2 for rank in (was, now))
    if was > top:
        curve = f"M{_GAP - _STUB},{y2 + _STUB} Q{_GAP - _STUB},{y2} {_GAP},{y2}"
    elif now > top:
        curve = f"M0,{y1} Q{_STUB},{y1} {_STUB},{y1 + _STUB}"
    else:
        curve = f"M0,{y1} C{_GAP // 2},{y1} {_GAP // 2},{y2} {_GAP},{y2}"
    template = "dotted" if max(was, now) > top else "path"
    return _TEMPLATES.fill(template, n=position, curve=curve, colour=_STROKES[moved(was, now)[0]])


def _agreement(comparison: Comparison) -> HTML:
    titles = ("", "Kendall τ-b, all", "RBO", f"same in first {comparison.top_n}")
    rows = [
        (
            _TEMPLATES.fill("pair", first=pair.first, second=pair.second),
            as_bar(max(0.0, pair.tau or 0.0), "–" if pair.tau is None else f"{pair.tau:.2f}"),
            as_bar(pair.rbo, f"{pair.rbo:.2f}"),
            as_bar(pair.overlap / comparison.top_n, f"{pair.overlap} of {comparison.top_n}"),
        )
        for pair in comparison.agreements
    ]
    return _TEMPLATES.fill("agreement", table=_table(titles, rows))


def _texts(comparison: Comparison) -> HTML:
    titles = ["document", *(ordering.label for ordering in comparison.orderings)]
    rows = ([_text(comparison, n), *_places(comparison, n)] for n in comparison.shown)
    return _TEMPLATES.fill("texts", count=len(comparison.shown), table=_table(titles, rows))


def _text(comparison: Comparison, position: int) -> HTML:
    name = HTML()
    if comparison.ids is not None:
        name = _TEMPLATES.fill("name", name=excerpt(comparison.ids[position]), space=" ")
    text = excerpt(comparison.documents[position], _READ) or "(empty)"
    return _TEMPLATES.fill("text", name=name, text=text)


def _places(comparison: Comparison, position: int) -> Iterator[HTML]:
    for ordering in comparison.orderings:
        yield _TEMPLATES.fill("place", rank=ordering.ranks[position])


def _table(titles: Sequence[str], rows: Iterable[Iterable[HTML]]) -> HTML:
    lines = (join(_TEMPLATES.fill("cell", value=value) for value in row) for row in rows)
    return _TEMPLATES.fill(
        "table",
        head=join(_TEMPLATES.fill("title", title=title) for title in titles),
        rows=join(_TEMPLATES.fill("line", cells=cells) for cells in lines),
    )
