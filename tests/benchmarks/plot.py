"""Plots as SVG, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from xml.sax.saxutils import escape

__all__ = ["bars", "intervals", "line", "reliability"]

_WIDTH, _LABELS, _ROW = 760, 250, 15
_OURS, _OTHERS = ("#1b7f79", "#3aa99f"), ("#8a8f98", "#b4b8bf")
_CURVES = ("#1b7f79", "#d1495b", "#edae49", "#4c82e6", "#8a8f98")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:14px}"
    ".n{font-size:11px}.g{stroke:#8a8f98;stroke-opacity:.35}.z{stroke:#8a8f98;stroke-width:1.5}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"
)


def bars(title: str, series: Mapping[str, Mapping[str, float]]) -> str:
    """Draw one group of bars per round, our own in colour, longest value across the width."""
    highest = max(value for row in series.values() for value in row.values())
    scale = (_WIDTH - _LABELS - 50) / highest
    parts, y = [_text(8, 20, title, "t")], 34
    for heading, row in series.items():
        y += 18
        parts.append(_text(8, y, heading, "t"))
        for name, value in sorted(row.items(), key=lambda item: -item[1]):
            y += _ROW
            colour = (_OURS if name.startswith("rerank-plugins") else _OTHERS)[0]
            parts.append(_text(_LABELS - 8, y, name, anchor="end"))
            parts.append(
                f'<rect x="{_LABELS}" y="{y - 10}" width="{value * scale:.1f}" height="11" '
                f'rx="2" fill="{colour}"/>'
            )
            parts.append(_text(_LABELS + value * scale + 5, y, f"{value:.1f}", "n"))
        y += 8
    x = _LABELS + scale  # the reference is 1
    parts.append(f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="40" y2="{y}"/>')
    return _svg(y + 10, parts)


def line(title: str, series: Mapping[str, Sequence[float]], below: str) -> str:
    """Draw values taken at equal steps, from 0 up."""
    left, top, height = 50, 40, 180
    highest = 1.15 * max(max(values) for values in series.values())
    parts = [_text(8, 20, title, "t"), _text(_WIDTH / 2, top + height + 34, below, anchor="middle")]
    for share in (0, 0.5, 1):
        y = top + height * (1 - share)
        parts.append(f'<line class="g" x1="{left}" x2="{_WIDTH - 120}" y1="{y}" y2="{y}"/>')
        parts.append(_text(left - 6, y + 4, f"{highest * share:.0f}", "n", anchor="end"))
    for (name, values), colour in zip(series.items(), (*_OURS, *_OTHERS), strict=False):
        step = (_WIDTH - 120 - left) / max(1, len(values) - 1)
        points = [(left + n * step, top + height * (1 - v / highest)) for n, v in enumerate(values)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        parts.append(_text(_WIDTH - 112, points[-1][1] + 4, name))
    return _svg(top + height + 46, parts)


def intervals(title: str, rows: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> str:
    """Draw a mean and its interval per row and series, (mean, low, high), around a line at 0."""
    names = list(next(iter(rows.values())))
    colours = dict(zip(names, (_OURS[0], "#d97706", "#7c5cbf", _OTHERS[0]), strict=False))
    ends = [end for row in rows.values() for _, low, high in row.values() for end in (low, high)]
    lowest, highest = min(0.0, *ends), max(0.0, *ends)
    left, right = 130, _WIDTH - 20
    scale = (right - left) / (highest - lowest)
    top, step = 66, 13
    parts, y = [_text(8, 20, title, "t")], float(top)
    at = 8.0
    for name in names:
        parts.append(f'<circle cx="{at + 5:.0f}" cy="36" r="4" fill="{colours[name]}"/>')
        parts.append(_text(at + 14, 40, name))
        at += 40 + 7 * len(name)
    marks = []
    for heading, row in rows.items():
        marks.append(_text(left - 10, y + step * (len(row) - 1) / 2 + 4, heading, anchor="end"))
        for name, (mean, low, high) in row.items():
            x1, x, x2 = (left + (value - lowest) * scale for value in (low, mean, high))
            marks.append(
                f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y}" y2="{y}" stroke="{colours[name]}" '
                f'stroke-width="2"/><circle cx="{x:.1f}" cy="{y}" r="4" fill="{colours[name]}"/>'
            )
            y += step
        y += 12
    tick = 0.1 if highest - lowest > 0.25 else 0.05
    for number in range(round(lowest / tick - 0.499), round(highest / tick + 0.499) + 1):
        x = left + (number * tick - lowest) * scale
        if left <= x <= right:
            style = "z" if number == 0 else "g"
            place = f'x1="{x:.1f}" x2="{x:.1f}" y1="{top - 12}" y2="{y - 8:.0f}"'
            parts.append(f'<line class="{style}" {place}/>')
            label = "0" if number == 0 else f"{number * tick:+.2f}".replace("-", "−")
            parts.append(_text(x, y + 6, label, "n", anchor="middle"))
    return _svg(y + 16, [*parts, *marks])


def reliability(title: str, series: Mapping[str, Sequence[tuple[float, float, int]]]) -> str:
    """Draw predicted probability against observed share, from 0 to 1, the first series thicker."""
    left, top, size = 50, 40, 320
    parts = [
        _text(8, 20, title, "t"),
        _text(left + size / 2, top + size + 34, "predicted", anchor="middle"),
    ]
    diagonal = f'x1="{left}" y1="{top + size}" x2="{left + size}" y2="{top}"'
    parts.append(f'<line class="z" {diagonal} stroke-dasharray="4 4"/>')
    for share in (0, 0.5, 1):
        x, y = left + size * share, top + size * (1 - share)
        parts.append(f'<line class="g" x1="{left}" x2="{left + size}" y1="{y}" y2="{y}"/>')
        parts.append(f'<line class="g" x1="{x}" x2="{x}" y1="{top}" y2="{top + size}"/>')
        parts.append(_text(left - 6, y + 4, f"{share:.1f}", "n", anchor="end"))
        parts.append(_text(x, top + size + 16, f"{share:.1f}", "n", anchor="middle"))
    for n, ((name, points), colour) in enumerate(zip(series.items(), cycle(_CURVES))):
        path = " ".join(f"{left + size * a:.1f},{top + size * (1 - b):.1f}" for a, b, _ in points)
        width = 1.5 if n else 3
        shape = f'fill="none" stroke="{colour}" stroke-width="{width}"'
        parts.append(f'<polyline {shape} points="{path}"/>')
        x, y = left + size + 24, top + 20 + 20 * n
        parts.append(
            f'<line stroke="{colour}" stroke-width="{width}" x1="{x}" x2="{x + 24}" '
            f'y1="{y - 4}" y2="{y - 4}"/>'
        )
        parts.append(_text(x + 32, y, f"{name} ({sum(count for *_, count in points):,} pairs)"))
    return _svg(top + size + 46, parts)


def _text(x: float, y: float, text: str, style: str = "", *, anchor: str = "start") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def _svg(height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'width="{_WIDTH}" height="{height:.0f}" role="img"><style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
