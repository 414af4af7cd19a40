"""A ranking as people see it: a table in a terminal, a table in a notebook."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from rerank_plugins.backend import Content, Document, Ranked, Scale

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["COLOURS", "FONT", "as_html", "as_table", "excerpt", "moved", "short_name"]

# Control characters could drive the terminal; direction overrides could reorder the table.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_REMOTE = re.compile(r"(?P<kind>[^:/?+]+)\+https?://(?P<host>[^/?]+)[^?]*(\?(?P<options>.*))?")
_EMPTY = "(empty)"
_OPEN_ROWS = 20
_SHOWN = 300
_HOVERED = 1500


def excerpt(document: Document, limit: int | None = None) -> str:
    """Return the document's text on one safe line, cut to `limit` characters."""
    text = document if isinstance(document, str) else _content_text(document)
    # A slice first: collapsing the white space of a megabyte to show a line of it is waste.
    head = text if limit is None else text[: 4 * limit]
    line = " ".join(_UNSAFE.sub(" ", head).split())
    if limit is None or (len(line) <= limit and len(head) == len(text)):
        return line
    return line[:limit].rstrip() + "…"


def _content_text(content: Content) -> str:
    return " ".join(filter(None, ("[image]" if content.image is not None else "", content.text)))


@dataclass(frozen=True, slots=True)
class _Row:
    """What one line shows."""

    rank: int
    was: int
    score: str
    bar: float
    document: Document

    @property
    def move(self) -> tuple[str, str]:
        return moved(self.was, self.rank)


def moved(was: int, now: int) -> tuple[str, str]:
    """Return the direction of a move and its arrow with the distance: `("up", "▲3")`."""
    if was == now:
        return "same", "="
    return ("up", f"▲{was - now}") if was > now else ("down", f"▼{now - was}")


def _rows(documents: Sequence[Document], ranked: Sequence[Ranked], scale: Scale) -> Iterator[_Row]:
    if not ranked:
        return
    low, high = ranked[-1].score, ranked[0].score
    for rank, item in enumerate(ranked, start=1):
        if scale == "probability":
            bar = min(max(item.score, 0.0), 1.0)
        elif high > low:  # no known range: from a stub for the worst to full for the best
            bar = 0.04 + 0.96 * (item.score - low) / (high - low)
        else:
            bar = 1.0
        shown = f"{item.score:.3f}" if abs(item.score) < 1000 else f"{item.score:.4g}"  # noqa: PLR2004
        yield _Row(rank, item.index + 1, shown, bar, documents[item.index])


def _summary(
    documents: Sequence[Document], ranked: Sequence[Ranked], backend: str, scale: Scale
) -> str:
    kept = f"{len(ranked)} of {len(documents)} document{'' if len(documents) == 1 else 's'}"
    # What matters most stands first: narrow terminals cut the end.
    return " · ".join([kept, *([] if scale == "unknown" else [scale]), short_name(backend)])


def short_name(backend: str) -> str:
    """Shorten the name of a backend to its kind and model, or host."""
    if remote := _REMOTE.match(backend):
        model = parse_qs(remote["options"] or "").get("model", [remote["host"]])[0]
        return f"{remote['kind']}:{model}"
    return backend.partition("?")[0].partition("@")[0]


def as_table(
    documents: Sequence[Document],
    ranked: Sequence[Ranked],
    *,
    backend: str,
    scale: Scale,
    labels: Sequence[str] | None = None,
) -> Table:
    """Draw the ranking for a terminal.

    Args:
        documents: all documents, in their first order.
        ranked: those that are shown, best first.
        backend: the name of what made the scores.
        scale: their range, which the bars are drawn to.
        labels: a name per document for a column of its own.
    """
    from rich import box  # noqa: PLC0415  # `import rerank_plugins` must not load it
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    colours = {"up": "green", "down": "red", "same": "dim"}
    summary = _summary(documents, ranked, backend, scale)
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=Text(summary, style="dim", no_wrap=True, overflow="ellipsis"),
        caption_justify="left",
        border_style="dim",
        header_style="dim",
        pad_edge=False,
        expand=True,
        show_edge=False,
    )
    table.add_column("#", justify="right", style="bold", no_wrap=True)
    table.add_column("moved", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("", width=12)
    if labels is not None:
        table.add_column("id", max_width=20, no_wrap=True, overflow="ellipsis", style="cyan")
    table.add_column("document", ratio=1, no_wrap=True, overflow="ellipsis")
    for row in _rows(documents, ranked, scale):
        direction, move = row.move
        bar = ProgressBar(1, row.bar, complete_style="cyan", finished_style="cyan")
        label = [Text(excerpt(labels[row.was - 1], _SHOWN))] if labels is not None else []
        shown = excerpt(row.document, _SHOWN)
        text = Text(shown) if shown else Text(_EMPTY, style="dim")
        move_cell = Text(move, style=colours[direction])
        table.add_row(str(row.rank), move_cell, row.score, bar, *label, text)
    return table


# Styles stand on the elements and colours are the page's own or of middle lightness: notebooks
# drop style sheets from pages they don't trust, and their themes ignore the system's setting.
FONT = "font:13px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif"
_LINE = "1px solid rgba(128,128,128,.22)"
_CELL = (
    "padding:5px 10px;border:0;text-align:{align};vertical-align:middle;white-space:nowrap;"
    "overflow:hidden;text-overflow:ellipsis;font:inherit;background:none;color:inherit"
)
_END, _START = _CELL.format(align="end"), _CELL.format(align="start")
_NUMBER = "font-variant-numeric:tabular-nums"
COLOURS = {"up": "#16924d", "down": "#e0483f", "same": "inherit"}
_WIDTHS = ("38px", "46px", "66px", "170px", "auto")


def as_html(
    query: str,
    documents: Sequence[Document],
    ranked: Sequence[Ranked],
    *,
    backend: str,
    scale: Scale,
) -> str:
    """Draw the ranking for a notebook: one self-contained piece of HTML without scripts.

    Args:
        query: what was asked, for the heading.
        documents: all documents, in their first order.
        ranked: those that are shown, best first.
        backend: the name of what made the scores.
        scale: their range, which the bars are drawn to.
    """
    rows = [_html_row(row) for row in _rows(documents, ranked, scale)]
    heading = f"<bdi>{escape(excerpt(query, _SHOWN))}</bdi>"
    summary = (
        f'<span title="{escape(backend)}">'
        f"{escape(_summary(documents, ranked, backend, scale))}</span>"
    )
    parts = [
        f'<div style="{FONT};max-width:1000px">',
        f'<div style="font-weight:600;font-size:15px;padding:2px 10px 0">{heading}</div>',
        f'<div style="opacity:.65;font-size:12px;padding:0 10px 8px">{summary}</div>',
    ]
    if rows:
        parts.append(_html_table(rows[:_OPEN_ROWS]))
    if len(rows) > _OPEN_ROWS:
        parts.append(
            '<details><summary style="cursor:pointer;padding:7px 10px;opacity:.75">'
            f"{len(rows) - _OPEN_ROWS} more</summary>"
            f"{_html_table(rows[_OPEN_ROWS:], head=False)}</details>"
        )
    return "".join([*parts, "</div>"])


def _html_table(rows: Sequence[str], *, head: bool = True) -> str:
    columns = "".join(f'<col style="width:{width}">' for width in _WIDTHS)
    titles = (("#", _END), ("was", _END), ("moved", _END), ("score", _START), ("document", _START))
    cells = "".join(
        f'<th scope="col" style="{style};font-size:12px;opacity:.65">{title}</th>'
        for title, style in titles
    )
    return (
        '<table style="border-collapse:collapse;table-layout:fixed;width:100%;margin:0;border:0;'
        f'font:inherit;color:inherit"><colgroup>{columns}</colgroup>'
        + (f'<thead><tr style="background:none">{cells}</tr></thead>' if head else "")
        + f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _html_row(row: _Row) -> str:
    direction, move = row.move
    spoken = {"up": "up", "down": "down", "same": "not moved"}[direction]
    text, more = excerpt(row.document, _SHOWN), excerpt(row.document, _HOVERED)
    shown = escape(text) or f'<span style="opacity:.65">{_EMPTY}</span>'
    return (
        f'<tr style="background:none;border-top:{_LINE}">'
        f'<td style="{_END};{_NUMBER};font-weight:600">{row.rank}</td>'
        f'<td style="{_END};{_NUMBER};opacity:.65">{row.was}</td>'
        f'<td title="{spoken}" style="{_END};{_NUMBER};font-weight:600;'
        f'color:{COLOURS[direction]}">{move}</td>'
        f'<td style="{_START}">{_html_bar(row)}</td>'
        f'<td dir="auto" title="{escape(more)}" style="{_START}">{shown}</td></tr>'
    )


def _html_bar(row: _Row) -> str:
    return (
        f'<span style="display:inline-block;width:50px;{_NUMBER}">{row.score}</span>'
        '<span aria-hidden="true" style="display:inline-block;width:94px;height:6px;'
        'border-radius:3px;background:rgba(128,128,128,.2);vertical-align:2px">'
        f'<span style="display:block;width:{100 * row.bar:.1f}%;height:6px;border-radius:3px;'
        'background:#4c82e6"></span></span>'
    )
