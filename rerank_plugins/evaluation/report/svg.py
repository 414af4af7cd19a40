"""Axes, lines and bands as SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from rerank_plugins._internal.html import HTML, Templates, join

__all__ = ["Plot", "nice_ticks"]

_TEMPLATES = Templates("rerank_plugins.evaluation.report", "plot.svg")


class Plot:
    """A plot: shapes in units of the data become SVG.

    Colours are CSS classes of the page: `c1`, `c2`, … for series, `grid`, `axis`, `note`.

    Args:
        x: ends of the horizontal axis, in units of the data.
        y: ends of the vertical axis.
        label: what the plot shows, for those who can't see it.
        width: of the whole plot, in its own units.
        height: of the whole plot.
        foot: how much of the height the horizontal axis takes.
        x_scale: from the data to what is linear on the page, as `math.log10`.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        label: str,
        width: int = 460,
        height: int = 280,
        foot: int = 40,
        x_scale: Callable[[float], float] = float,
    ) -> None:
        self._left, self._right, self._top, self._bottom = 46, width - 14, 12, height - foot
        self._x_scale = x_scale
        self._x = x_scale(x[0]), x_scale(x[1])
        self._y = y
        self._size = width, height
        self._shapes: list[HTML] = []
        self._label = label

    def _add(self, template: str, **values: object) -> None:
        self._shapes.append(_TEMPLATES.fill(template, **values))

    def _column(self, value: float) -> float:
        share = (self._x_scale(value) - self._x[0]) / (self._x[1] - self._x[0])
        return self._left + share * (self._right - self._left)

    def _row(self, value: float) -> float:
        share = (value - self._y[0]) / (self._y[1] - self._y[0])
        return self._bottom - share * (self._bottom - self._top)

    def _points(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self._column(x):.1f},{self._row(y):.1f}" for x, y in points)

    def axes(
        self,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
        *,
        x_title: str,
        y_title: str,
    ) -> None:
        """Draw a grid, ticks with their labels, and the titles of the axes."""
        for value, label in y_ticks:
            y = self._row(value)
            self._line("grid", (self._left, y), (self._right, y))
            self._text(self._left - 7, y + 4, label, anchor="end")
        for value, label in x_ticks:
            x = self._column(value)
            self._line("axis", (x, self._bottom), (x, self._bottom + 4))
            self._text(x, self._bottom + 17, label, anchor="middle")
        base = self._row(max(self._y[0], 0.0))
        self._line("axis", (self._left, base), (self._right, base))
        middle = (self._left + self._right) / 2
        self._text(middle, self._size[1] - 6, x_title, style="note", anchor="middle")
        self._text(self._left + 5, self._top + 8, y_title, style="note halo")

    def _line(self, style: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        (x1, y1), (x2, y2) = start, end
        self._add("line", style=style, x1=_at(x1), x2=_at(x2), y1=_at(y1), y2=_at(y2))

    def _text(
        self, x: float, y: float, text: str, *, style: str = "", anchor: str = "start"
    ) -> None:
        self._add("text", x=_at(x), y=_at(y), text=text, style=style, anchor=anchor)

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draw straight lines through the points."""
        self._add("polyline", style=style, points=self._points(points))

    def band(self, points: Sequence[tuple[float, float, float]], style: str) -> None:
        """Fill the area between two values of y for each x."""
        edge = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in points[::-1]]
        self._add("polygon", style=style, points=self._points(edge))

    def dot(
        self, x: float, y: float, style: str, *, radius: float = 4, title: str = "", dy: float = 0
    ) -> None:
        """Draw a point; its title shows under a mouse."""
        x, y = self._column(x), self._row(y) + dy
        self._add("circle", style=style, x=_at(x), y=_at(y), radius=radius, title=title)

    def bar(self, x: float, width: float, y: float, style: str, title: str = "") -> None:
        """Draw a bar from 0 to y."""
        left, right, end, zero = (
            self._column(x),
            self._column(x + width),
            self._row(y),
            self._row(0.0),
        )
        gap = min(1.0, 0.2 * (right - left))
        self._add(
            "rect",
            style=style,
            x=f"{left + gap / 2:.2f}",
            y=_at(min(end, zero)),
            width=f"{right - left - gap:.2f}",
            height=_at(max(abs(end - zero), 0.8)),
            title=title,
        )

    def label(
        self, x: float, y: float, text: str, *, style: str = "", dx: float = 0, dy: float = 0,
        anchor: str = "start",
    ) -> None:  # fmt: skip
        """Write a text beside a point of the data."""
        self._text(self._column(x) + dx, self._row(y) + dy, text, style=style, anchor=anchor)

    def svg(self) -> HTML:
        """Return the plot as an SVG element."""
        width, height = self._size
        return _TEMPLATES.fill(
            "plot", width=width, height=height, label=self._label, shapes=join(self._shapes)
        )


def _at(value: float) -> str:
    return f"{value:.1f}"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values from `low` down to the next to `high` up to the next, about `count`."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / count))
    step = min((power * m for m in (1, 2, 5, 10)), key=lambda step: abs(span / step - count))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]
