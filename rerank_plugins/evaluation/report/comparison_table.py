"""A comparison in a terminal: one row per document, one column per ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rerank_plugins._internal.display import excerpt, moved

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from rerank_plugins.evaluation.compare import Comparison

__all__ = ["as_tables"]

_SHOWN = 300
_COLOURS = {"up": "green", "down": "red", "same": "dim"}


def as_tables(comparison: Comparison) -> Group:
    """Draw a table of the top documents with their ranks, and one of the agreements."""
    from rich.console import Group  # noqa: PLC0415  # `import rerank_plugins` must not load it

    return Group(_places(comparison), "", _agreements(comparison))


def _table() -> Table:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    return Table(
        box=box.SIMPLE_HEAD,
        border_style="dim",
        header_style="dim",
        pad_edge=False,
        show_edge=False,
        caption_justify="left",
    )


def _places(comparison: Comparison) -> Table:
    from rich.text import Text  # noqa: PLC0415

    table = _table()
    table.expand = True
    first, *others = comparison.orderings
    table.add_column("first", justify="right", no_wrap=True, style="dim")
    for ordering in others:
        table.add_column(Text(ordering.label), justify="right", overflow="fold", max_width=18)
    if comparison.ids is not None:
        table.add_column("id", max_width=20, no_wrap=True, overflow="ellipsis", style="cyan")
    table.add_column("document", ratio=1, min_width=12, no_wrap=True, overflow="ellipsis")
    widest = len(str(len(comparison.documents)))
    for position in comparison.shown:
        was = first.ranks[position]
        cells = []
        for ordering in others:
            rank = ordering.ranks[position]
            direction, move = moved(was, rank)
            top = "bold" if rank <= comparison.top_n else "dim"
            place = Text(str(rank), style=top)
            cells.append(place.append(f" {move:>{widest + 1}}", style=_COLOURS[direction]))
        ids = [] if comparison.ids is None else [Text(excerpt(comparison.ids[position], _SHOWN))]
        text = Text(excerpt(comparison.documents[position], _SHOWN) or "(empty)")
        table.add_row(str(was), *cells, *ids, text)
    table.caption = Text(
        f"{len(comparison.shown)} of {len(comparison.documents)} documents: those in the first "
        f"{comparison.top_n} of any ranking",
        style="dim",
    )
    return table


def _agreements(comparison: Comparison) -> Table:
    from rich.text import Text  # noqa: PLC0415

    table = _table()
    table.add_column("agreement")
    for name in ("Kendall τ-b", "RBO", f"same in first {comparison.top_n}"):
        table.add_column(name, justify="right")
    for pair in comparison.agreements:
        tau = "–" if pair.tau is None else f"{pair.tau:.2f}"
        names = Text(f"{pair.first} ↔ {pair.second}")
        table.add_row(names, tau, f"{pair.rbo:.2f}", str(pair.overlap))
    return table
