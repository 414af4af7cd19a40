"""Axes, lines and bands as SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

__all__ = ["Frame", "nice_ticks", "text"]


class Frame:
    """A plot's frame: what is drawn in units of the data lands on the page.

    Colours are CSS classes of the page: `c1`, `c2`, … for series, `grid`, `axis`, `note`.

    Args:
        x: ends of the horizontal axis, in units of the data.
        y: ends of the vertical axis.
        label: what the picture shows, for those who can't see it.
        width: of the whole picture, in its own units.
        height: of the whole picture.
        foot: of that, what is kept for the horizontal axis.
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
        self._parts: list[str] = []
        self._label = label

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point of the data lands."""
        across = (self._x_scale(x) - self._x[0]) / (self._x[1] - self._x[0])
        return self._left + across * (self._right - self._left), self._row(y)

    def axes(
        self,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
        *,
        x_title: str,
        y_title: str,
    ) -> None:
        """Draw a grid, ticks with their labels, and what the axes mean."""
        for value, label in y_ticks:
            y = self._row(value)
            self._parts.append(
                f'<line class="grid" x1="{self._left}" x2="{self._right}" y1="{y:.1f}" '
                f'y2="{y:.1f}"/>'
            )
            self._parts.append(text(self._left - 7, y + 4, label, anchor="end"))
        for value, label in x_ticks:
            x, _ = self.at(value, self._y[0])
            self._parts.append(
                f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{self._bottom}" '
                f'y2="{self._bottom + 4}"/>'
            )
            self._parts.append(text(x, self._bottom + 17, label, anchor="middle"))
        base = self._row(max(self._y[0], 0.0))
        self._parts.append(
            f'<line class="axis" x1="{self._left}" x2="{self._right}" y1="{base:.1f}" '
            f'y2="{base:.1f}"/>'
        )
        middle = (self._left + self._right) / 2
        self._parts.append(text(middle, self._size[1] - 6, x_title, style="note", anchor="middle"))
        self._parts.append(text(self._left + 5, self._top + 8, y_title, style="note halo"))

    def _row(self, value: float) -> float:
        up = (value - self._y[0]) / (self._y[1] - self._y[0])
        return self._bottom - up * (self._bottom - self._top)

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draw straight lines through the points."""
        path = " ".join("{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in points)
        self._parts.append(f'<polyline class="{style}" points="{path}"/>')

    def band(self, points: Sequence[tuple[float, float, float]], style: str) -> None:
        """Fill the area between two values of y for each x."""
        edge = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in points[::-1]]
        path = " ".join("{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in edge)
        self._parts.append(f'<polygon class="{style}" points="{path}"/>')

    def dot(self, x: float, y: float, style: str, *, radius: float = 4, title: str = "") -> None:
        """Draw a point; its title shows under a mouse."""
        across, down = self.at(x, y)
        self._parts.append(
            f'<circle class="{style}" cx="{across:.1f}" cy="{down:.1f}" r="{radius}">'
            f"<title>{escape(title)}</title></circle>"
        )

    def bar(self, x: float, width: float, y: float, style: str, title: str = "") -> None:
        """Draw a bar from 0 to y."""
        left, down = self.at(x, y)
        right, zero = self.at(x + width, 0.0)
        gap = min(1.0, 0.2 * (right - left))
        top = min(down, zero)
        self._parts.append(
            f'<rect class="{style}" x="{left + gap / 2:.2f}" y="{top:.1f}" '
            f'width="{right - left - gap:.2f}" height="{max(abs(down - zero), 0.8):.1f}">'
            f"<title>{escape(title)}</title></rect>"
        )

    def label(
        self, x: float, y: float, words: str, *, style: str = "", dx: float = 0, dy: float = 0,
        anchor: str = "start",
    ) -> None:  # fmt: skip
        """Write beside a point of the data."""
        across, down = self.at(x, y)
        self._parts.append(text(across + dx, down + dy, words, style=style, anchor=anchor))

    def svg(self) -> str:
        """Return the picture."""
        width, height = self._size
        return (
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(self._label)}" '
            f'xmlns="http://www.w3.org/2000/svg">{"".join(self._parts)}</svg>'
        )


def text(x: float, y: float, words: str, *, style: str = "", anchor: str = "start") -> str:
    """Return words at a place of the page."""
    attributes = f' class="{style}"' if style else ""
    attributes += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(words)}</text>'


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values from `low` down to the next to `high` up to the next, about `count`."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / count))
    step = min((power * m for m in (1, 2, 5, 10)), key=lambda step: abs(span / step - count))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]
