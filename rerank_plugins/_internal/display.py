"""A ranking as a table, in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rerank_plugins._internal.html import HTML, Templates, join
from rerank_plugins._internal.terminal import UNSAFE

if TYPE_CHECKING:
    from rich.table import Table

    from rerank_plugins.content import Content, Document
    from rerank_plugins.ranking import Cutoff, Ranked
    from rerank_plugins.scores import Passage, Scores

__all__ = [
    "COLOURS",
    "STYLES",
    "as_bar",
    "as_html",
    "as_table",
    "excerpt",
    "facts_of",
    "moved",
]

_EMPTY = "(empty)"
_OPEN_ROWS = 20
_SHOWN = 300
_HOVERED = 1500
# Pixels of the columns with places, in the widest of the usual fonts, and of their heads.
_DIGIT, _PADDING = 10, 24
_LEAST_PLACE, _LEAST_MOVE = 50, 70


def excerpt(document: Document, limit: int | None = None) -> str:
    """Return the document's text on one safe line, cut to `limit` characters."""
    text = document if isinstance(document, str) else _content_text(document)
    # A slice first: collapsing the white space of a megabyte to show a line of it is waste.
    head = text if limit is None else text[: 4 * limit]
    line = " ".join(UNSAFE.sub(" ", head).split())
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
    truncated: bool
    read: float | None
    """The share of a truncated document that was read, where it is known."""
    passage: Passage | None
    highlight: Passage | None
    """The best sentence of the passage; a line begins with it."""

    def shown(self, limit: int) -> str:
        """Return the passage that answers, or the start of the document, on one line."""
        if self.passage is None or not isinstance(self.document, str):
            return excerpt(self.document, limit)
        return excerpt(self.document[self._start : self.passage.end], limit)

    def sentence(self, limit: int) -> str:
        """Return what of `shown` is the best sentence; empty if that is not known."""
        if self.highlight is None or not isinstance(self.document, str):
            return ""
        whole = excerpt(self.document[self.highlight.start : self.highlight.end], limit)
        shown = self.shown(limit)
        return whole if shown.startswith(whole) else shown

    @property
    def _start(self) -> int:
        if self.highlight is not None:
            return self.highlight.start
        return 0 if self.passage is None else self.passage.start

    @property
    def before(self) -> str:
        """What stands in front of a passage from amid a document."""
        return "… " if self._start else ""

    @property
    def mark(self) -> str:
        """What stands in front of a document that was cut."""
        if not self.truncated:
            return ""
        return "truncated: " if self.read is None else f"truncated, {_percent(self.read)} read: "

    @property
    def move(self) -> tuple[str, str]:
        return moved(self.was, self.rank)


def _percent(share: float) -> str:
    """Return a share of less than all in per cent; neither none nor all by rounding."""
    return "<1 %" if share < 0.01 else f"{min(99, round(100 * share))} %"  # noqa: PLR2004 - per cent


def moved(was: int, now: int) -> tuple[str, str]:
    """Return the direction of a move and its arrow with the distance: `("up", "▲3")`."""
    if was == now:
        return "same", "="
    return ("up", f"▲{was - now}") if was > now else ("down", f"▼{now - was}")


def _rows(
    documents: Sequence[Document], ranked: Sequence[Ranked], scores: Scores
) -> Iterator[_Row]:
    if not ranked:
        return
    low, high = ranked[-1].score, ranked[0].score
    for rank, item in enumerate(ranked, start=1):
        if scores.scale == "probability":
            bar = min(max(item.score, 0.0), 1.0)
        elif high > low:  # no known range: from a stub for the worst to full for the best
            bar = 0.04 + 0.96 * (item.score - low) / (high - low)
        else:
            bar = 1.0
        shown = f"{item.score:.3f}" if abs(item.score) < 1000 else f"{item.score:.4g}"  # noqa: PLR2004
        truncated = item.index in scores.truncated
        yield _Row(
            rank,
            item.index + 1,
            shown,
            bar,
            documents[item.index],
            truncated,
            scores.read.get(item.index),
            scores.passages.get(item.index),
            scores.highlights.get(item.index),
        )


def _summary(count: int, kept: int, scores: Scores, label: str, cutoff: Cutoff | None) -> str:
    # The most important facts come first, since narrow terminals cut the end.
    parts = [f"{kept} of {_counted(count, 'document')}"]
    if cutoff is not None:
        parts += _cutoff_words(cutoff)
    if scores.scale != "unknown":
        parts.append(scores.scale)
    parts.append(scores.label or scores.backend or label)
    if scores.truncated:
        parts.append(f"{len(scores.truncated)} truncated")
    if scores.chunked:
        parts.append(f"{len(scores.chunked)} in windows")
    if scores.cached:
        parts.append(f"{scores.cached} cached")
    if scores.usage is not None and scores.usage.tokens is not None:
        parts.append(_counted(scores.usage.tokens, "token"))
    if scores.usage is not None and scores.usage.search_units is not None:
        parts.append(_counted(scores.usage.search_units, "search unit"))
    return " · ".join(parts)


def _cutoff_words(cutoff: Cutoff) -> Iterator[str]:
    """Yield what a reader can't see: a cut by more than a number of documents or a score."""
    if cutoff.by == "min_gap":
        yield "ended by min_gap"
    if cutoff.tokens is not None:
        about = "about " if cutoff.tokens_estimated else ""
        full = "ended by max_tokens at " if cutoff.by == "max_tokens" else ""
        yield f"{full}{about}{_counted(cutoff.tokens, 'token')} kept"
    if cutoff.duplicates:
        yield _counted(len(cutoff.duplicates), "near-duplicate") + " left out"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def facts_of(scores: Scores) -> dict[str, object]:
    """Return what is known about scores as JSON-ready facts; documents are numbered from 0."""
    return {
        "backend": scores.backend,
        "label": scores.label,
        "model": scores.model,
        "scale": scores.scale,
        "truncated": sorted(scores.truncated),
        "chunked": sorted(scores.chunked),
        "cached": scores.cached,
        "usage": None if scores.usage is None else asdict(scores.usage),
    }


def as_table(
    documents: Sequence[Document],
    ranked: Sequence[Ranked],
    scores: Scores,
    *,
    label: str,
    names: Sequence[str] | None = None,
    cutoff: Cutoff | None = None,
) -> Table:
    """Draw the ranking for a terminal.

    Args:
        documents: all documents, in their first order.
        ranked: the documents to show, best first.
        scores: the scores of all documents, in their first order.
        label: the label of the backend, shown if the scores don't say who made them.
        names: a name per document, shown in a column of its own.
        cutoff: why there are no more documents.
    """
    from rich import box  # noqa: PLC0415  # `import rerank_plugins` must not load it
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    colours = {"up": "green", "down": "red", "same": "dim"}
    summary = _summary(len(documents), len(ranked), scores, label, cutoff)
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
    if names is not None:
        table.add_column("id", max_width=20, no_wrap=True, overflow="ellipsis", style="cyan")
    table.add_column("document", ratio=1, no_wrap=True, overflow="ellipsis")
    for row in _rows(documents, ranked, scores):
        direction, move = row.move
        bar = ProgressBar(1, row.bar, complete_style="cyan", finished_style="cyan")
        name = [Text(excerpt(names[row.was - 1], _SHOWN))] if names is not None else []
        shown = row.shown(_SHOWN)
        sentence = row.sentence(_SHOWN)
        text = Text.assemble(
            (row.mark, "dim"),
            (row.before, "dim"),
            (sentence, "bold"),
            (shown[len(sentence) :] or ("" if sentence else _EMPTY), "" if shown else "dim"),
        )
        move_cell = Text(move, style=colours[direction])
        table.add_row(str(row.rank), move_cell, row.score, bar, *name, text)
    return table


# Notebooks drop style sheets from pages they don't trust, and their themes ignore the system's
# setting: so styles stand on the elements, and colours are the page's own or of middle lightness.
STYLES: Mapping[str, str] = {
    "font": "font:13px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif",
    "line": "1px solid rgba(128,128,128,.22)",
    "digits": "font-variant-numeric:tabular-nums",
    "soft": "opacity:.65;font-size:12px",
}
"""Styles that all templates of notebooks use."""
COLOURS = {"up": "#16924d", "down": "#e0483f", "same": "inherit"}

_CELL = (
    "padding:5px 10px;border:0;text-align:{align};vertical-align:middle;white-space:nowrap;"
    "overflow:hidden;text-overflow:ellipsis;font:inherit;background:none;color:inherit"
)
_TEMPLATES = Templates(
    "rerank_plugins._internal",
    "ranking.html",
    constants={**STYLES, "end": _CELL.format(align="end"), "start": _CELL.format(align="start")},
)
_MOVES = {"up": "up", "down": "down", "same": "not moved"}


def as_html(
    query: str,
    documents: Sequence[Document],
    ranked: Sequence[Ranked],
    scores: Scores,
    *,
    label: str,
    cutoff: Cutoff | None = None,
) -> str:
    """Draw the ranking for a notebook: one self-contained piece of HTML without scripts.

    Args:
        query: the query, for the heading.
        documents: all documents, in their first order.
        ranked: the documents to show, best first.
        scores: the scores of all documents, in their first order.
        label: the label of the backend, shown if the scores don't say who made them.
        cutoff: why there are no more documents.
    """
    rows = [_html_row(row) for row in _rows(documents, ranked, scores)]
    digits = len(str(len(documents)))
    widths = {
        "place": max(_LEAST_PLACE, _PADDING + digits * _DIGIT),
        "move": max(_LEAST_MOVE, _PADDING + (digits + 1.5) * _DIGIT),  # with its arrow
    }
    tables = []
    if rows:
        head = _TEMPLATES.fill("head")
        tables.append(_TEMPLATES.fill("table", head=head, rows=join(rows[:_OPEN_ROWS]), **widths))
    if hidden := rows[_OPEN_ROWS:]:
        table = _TEMPLATES.fill("table", head="", rows=join(hidden), **widths)
        tables.append(_TEMPLATES.fill("more", count=len(hidden), table=table))
    return _TEMPLATES.fill(
        "ranking",
        query=excerpt(query, _SHOWN),
        backend=scores.backend or label,
        summary=_summary(len(documents), len(ranked), scores, label, cutoff),
        tables=join(tables),
    )


def _html_row(row: _Row) -> HTML:
    direction, move = row.move
    return _TEMPLATES.fill(
        "row",
        rank=row.rank,
        was=row.was,
        direction=_MOVES[direction],
        colour=COLOURS[direction],
        move=move,
        bar=as_bar(row.bar, row.score),
        more=row.before + row.shown(_HOVERED),
        before=row.before,
        truncated=_TEMPLATES.fill("truncated", mark=row.mark) if row.truncated else "",
        text=_html_text(row),
    )


def _html_text(row: _Row) -> HTML | str:
    shown = row.shown(_SHOWN)
    if not shown:
        return _TEMPLATES.fill("empty")
    if row.passage is None:
        return shown
    sentence = row.sentence(_SHOWN)
    strong = _TEMPLATES.fill("sentence", text=sentence) if sentence else ""
    return _TEMPLATES.fill("passage", sentence=strong, text=shown[len(sentence) :])


def as_bar(share: float, value: str) -> HTML:
    """Draw a value, and a bar that is filled to a share from 0 to 1."""
    return _TEMPLATES.fill("bar", percent=f"{100 * share:.1f}", value=value)
