"""A comparison in a notebook or on a page: a column per order, lines that follow documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from rerank_plugins._internal.display import COLOURS, FONT, excerpt, moved

if TYPE_CHECKING:
    from rerank_plugins.evaluation.compare import Comparison, Ordering

__all__ = ["as_chart", "as_page"]

# As in `_display`: styles stand on the elements, because notebooks drop style sheets.
_ROW, _HEAD, _GAP, _COLUMN, _STUB = 32, 46, 56, 156, 16
_ROOMY = 3
"""Up to so many columns have room for the scores, too."""
_LINE = "1px solid rgba(128,128,128,.22)"
_NUMBER = "font-variant-numeric:tabular-nums"
_SOFT = "opacity:.65;font-size:12px"
_CUT = "white-space:nowrap;overflow:hidden;text-overflow:ellipsis"
_STROKES = COLOURS | {"same": "#8a8f98"}
_SHOWN, _HOVERED, _READ = 160, 1500, 4000

_SHEET = """
:root{color-scheme:light dark}
body{margin:28px auto;padding:0 24px;max-width:1500px}
path{transition:opacity .1s,stroke-width .1s}
"""


def as_page(comparison: Comparison) -> str:
    """Draw the comparison as an HTML page of its own, where pointing at a document follows it."""
    follow = "".join(
        f"main:has(div.d{n}:hover) div.d{n}{{background:rgba(128,128,128,.16)}}"
        f"main:has(div.d{n}:hover) path:not(.d{n}){{opacity:.12}}"
        f"main:has(div.d{n}:hover) path.d{n}{{opacity:1;stroke-width:3.5}}\n"
        for n in comparison.shown
    )
    title = escape(excerpt(comparison.query, _SHOWN))
    return (
        '<!doctype html>\n<html><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_SHEET}{follow}</style></head>\n"
        f"<body><main>{as_chart(comparison)}</main></body></html>\n"
    )


def as_chart(comparison: Comparison) -> str:
    """Draw the comparison for a notebook: one self-contained piece of HTML without scripts."""
    count = len(comparison.documents)
    summary = f"{count} document{'' if count == 1 else 's'} · first {comparison.top_n} places shown"
    if count > comparison.top_n:
        summary += ", dotted lines lead below"
    query = escape(excerpt(comparison.query, 300))
    parts = [
        f'<div style="{FONT}">',
        f'<div style="font-weight:600;font-size:15px;padding:2px 8px 0"><bdi>{query}</bdi></div>',
        f'<div style="{_SOFT};padding:0 8px 10px">{summary}</div>',
    ]
    if comparison.top_n:
        parts += ['<div style="overflow-x:auto;padding-bottom:4px">', *_columns(comparison)]
        parts += ["</div>", *_agreement(comparison), *_texts(comparison)]
    return "".join([*parts, "</div>"])


def _columns(comparison: Comparison) -> Iterator[str]:
    orderings = comparison.orderings
    width = len(orderings) * _COLUMN + (len(orderings) - 1) * _GAP
    yield f'<div style="display:flex;align-items:flex-start;min-width:{width}px">'
    yield _column(comparison, orderings[0])
    for left, right in pairwise(orderings):
        yield _lines(comparison, left, right)
        yield _column(comparison, right)
    yield "</div>"


def _column(comparison: Comparison, ordering: Ordering) -> str:
    rows = [_row(comparison, ordering, position) for position in ordering.order[: comparison.top_n]]
    title = escape(excerpt(ordering.backend or "the order in which the documents were given"))
    return (
        f'<div style="flex:1 1 0;min-width:{_COLUMN}px">'
        f'<div title="{title}" style="height:{_HEAD}px;box-sizing:border-box;padding:4px 8px 0;'
        f'border-bottom:{_LINE}"><div style="font-weight:600;{_CUT}">{escape(ordering.label)}</div>'
        f'<div style="{_SOFT};{_CUT}">{_note(ordering)}</div></div>{"".join(rows)}</div>'
    )


def _note(ordering: Ordering) -> str:
    if ordering.scores is None:
        return "as found"
    tied = sum(times for times in Counter(ordering.scores).values() if times > 1)
    notes = [] if ordering.scale == "unknown" else [ordering.scale]
    return " · ".join([*notes, *([f"{tied} tied, kept as found"] if tied else [])]) or "scores"


def _row(comparison: Comparison, ordering: Ordering, position: int) -> str:
    rank, document = ordering.ranks[position], comparison.documents[position]
    text = escape(excerpt(document, _SHOWN)) or f'<span style="{_SOFT}">(empty)</span>'
    parts = [
        f'<span style="flex:none;width:22px;text-align:end;font-weight:600;{_NUMBER}">{rank}</span>'
    ]
    if ordering.scores is not None:
        direction, move = moved(position + 1, rank)
        parts.append(
            f'<span style="flex:none;width:38px;text-align:end;font-weight:600;font-size:12px;'
            f'color:{COLOURS[direction]};{_NUMBER}">{move}</span>'
        )
    parts.append(f'<span dir="auto" style="flex:1;min-width:0;{_CUT}">{text}</span>')
    hints = [] if comparison.ids is None else [excerpt(comparison.ids[position], _SHOWN)]
    if ordering.scores is not None:
        score = ordering.scores[position]
        shown = f"{score:.2f}" if abs(score) < 1000 else f"{score:.3g}"  # noqa: PLR2004
        hints.append(shown)
        if len(comparison.orderings) <= _ROOMY:
            parts.append(f'<span style="flex:none;{_SOFT};{_NUMBER}">{shown}</span>')
    hover = escape(" · ".join([*hints, excerpt(document, _HOVERED)]))
    return (
        f'<div class="d{position}" title="{hover}" style="display:flex;align-items:center;gap:8px;'
        f'height:{_ROW}px;box-sizing:border-box;padding:0 8px;border-bottom:{_LINE}">'
        f"{''.join(parts)}</div>"
    )


def _lines(comparison: Comparison, left: Ordering, right: Ordering) -> str:
    """Draw a line per document; a dotted stub leads to or from a place that is not shown."""
    top = comparison.top_n
    paths = []
    for position in comparison.shown:
        was, now = left.ranks[position], right.ranks[position]
        if min(was, now) > top:
            continue
        y1, y2 = (rank * _ROW - _ROW // 2 for rank in (was, now))
        if was > top:
            curve = f"M{_GAP - _STUB},{y2 + _STUB} Q{_GAP - _STUB},{y2} {_GAP},{y2}"
        elif now > top:
            curve = f"M0,{y1} Q{_STUB},{y1} {_STUB},{y1 + _STUB}"
        else:
            curve = f"M0,{y1} C{_GAP // 2},{y1} {_GAP // 2},{y2} {_GAP},{y2}"
        dashes = ' stroke-dasharray="2 3"' if max(was, now) > top else ""
        colour = _STROKES[moved(was, now)[0]]
        paths.append(
            f'<path class="d{position}" d="{curve}" fill="none" stroke="{colour}" '
            f'stroke-width="2" opacity=".75"{dashes}/>'
        )
    return (
        f'<svg aria-hidden="true" width="{_GAP}" height="{top * _ROW}" '
        f'style="flex:none;margin-top:{_HEAD}px">{"".join(paths)}</svg>'
    )


def _agreement(comparison: Comparison) -> Iterator[str]:
    yield '<div style="font-weight:600;padding:16px 8px 4px">How alike they are</div>'
    titles = ("", "Kendall τ-b, all", "RBO", f"same in first {comparison.top_n}")
    rows = []
    for pair in comparison.agreements:
        tau = 0.0 if pair.tau is None else max(0.0, pair.tau)
        rows.append(
            (
                f"{escape(pair.first)} <span style='opacity:.5'>↔</span> {escape(pair.second)}",
                _bar(tau, "–" if pair.tau is None else f"{pair.tau:.2f}"),
                _bar(pair.rbo, f"{pair.rbo:.2f}"),
                _bar(pair.overlap / comparison.top_n, f"{pair.overlap} of {comparison.top_n}"),
            )
        )
    yield _html_table(titles, rows)


def _bar(share: float, shown: str) -> str:
    return (
        f'<span style="display:inline-block;min-width:56px;{_NUMBER}">{shown}</span>'
        '<span aria-hidden="true" style="display:inline-block;width:80px;height:6px;'
        'border-radius:3px;background:rgba(128,128,128,.2);vertical-align:2px">'
        f'<span style="display:block;width:{100 * share:.1f}%;height:6px;border-radius:3px;'
        'background:#4c82e6"></span></span>'
    )


def _texts(comparison: Comparison) -> Iterator[str]:
    yield (
        '<details style="padding:14px 8px 0"><summary style="cursor:pointer;opacity:.75">'
        f"{len(comparison.shown)} documents in full</summary>"
    )
    titles = ["document", *(ordering.label for ordering in comparison.orderings)]
    rows = []
    for position in comparison.shown:
        name = (
            "" if comparison.ids is None else f"<b>{escape(excerpt(comparison.ids[position]))}</b> "
        )
        text = escape(excerpt(comparison.documents[position], _READ)) or "(empty)"
        places = [
            f'<span style="{_NUMBER}">{ordering.ranks[position]}</span>'
            for ordering in comparison.orderings
        ]
        rows.append((f'<div dir="auto" style="max-width:75ch">{name}{text}</div>', *places))
    yield _html_table([escape(title) for title in titles], rows)
    yield "</details>"


def _html_table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cell = (
        "padding:5px 18px 5px 8px;border:0;text-align:start;vertical-align:top;font:inherit;"
        "background:none;color:inherit;white-space:normal"
    )
    head = "".join(f'<th scope="col" style="{cell};{_SOFT}">{title}</th>' for title in titles)
    body = "".join(
        f'<tr style="background:none;border-top:{_LINE}">'
        + "".join(f'<td style="{cell}">{value}</td>' for value in row)
        + "</tr>"
        for row in rows
    )
    return (
        '<table style="border-collapse:collapse;margin:0;border:0;font:inherit;color:inherit">'
        f'<thead><tr style="background:none">{head}</tr></thead><tbody>{body}</tbody></table>'
    )
