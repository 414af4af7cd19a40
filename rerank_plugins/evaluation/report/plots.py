"""The plots of a report."""

from __future__ import annotations

import math

from rerank_plugins._internal.display import excerpt
from rerank_plugins._internal.html import HTML
from rerank_plugins.evaluation.report.format import figure, milliseconds, signed
from rerank_plugins.evaluation.report.svg import Plot, nice_ticks
from rerank_plugins.evaluation.results import Evaluation, System

__all__ = ["depth_plot", "gain_plot", "latency_plot"]

_COLOURS = 6
_TITLED = 400
"""With more bars than this, none has its query as a title: the page would grow heavy."""
_LOG_FROM = 8
"""The time axis is logarithmic where the slowest takes so many times as long as the fastest."""


def colour(result: Evaluation, system: System) -> str:
    """Return the CSS class of a backend's colour."""
    place = next(n for n, other in enumerate(result.backends) if other.label == system.label)
    return f"c{place % _COLOURS + 1}"


def latency_plot(result: Evaluation) -> HTML:
    """Draw quality against the median latency: a line per backend, a point per depth."""
    metric = result.metrics[0]
    before = result.baseline.figures[metric].mean
    times = [
        point.speed.percentile(50)
        for each in result.backends
        for point in each.by_depth
        if point.speed
    ]
    if not times:
        return HTML()
    values = [point.figures[metric].mean for each in result.backends for point in each.by_depth]
    marks = nice_ticks(*_padded(min(*values, before), max(*values, before)))
    low, high = 1000 * min(times), 1000 * max(times)
    logarithmic = high / low >= _LOG_FROM
    if logarithmic:
        ticks = [t for t in _powers(low, high) if low / 1.3 <= t <= high * 1.35]
        ends = (low / 1.3, high * 1.35)
    else:
        ticks = nice_ticks(0, high)
        ends = (0.0, ticks[-1])
    plot = Plot(
        ends,
        (marks[0], marks[-1]),
        label=f"{metric} against the median latency per query",
        x_scale=math.log10 if logarithmic else float,
    )
    plot.axes(
        [(tick, f"{tick:g}") for tick in ticks],
        [(mark, f"{mark:g}") for mark in marks],
        x_title="median milliseconds per query" + (", logarithmic" if logarithmic else ""),
        y_title=metric,
    )
    plot.line([(ends[0], before), (ends[1], before)], "base")
    plot.label(ends[0], before, result.baseline.label, style="note halo", dx=4, dy=-6)
    for system in result.backends:
        style = colour(result, system)
        points = [
            (1000 * point.speed.percentile(50), point.figures[metric].mean, point.depth)
            for point in system.by_depth
            if point.speed is not None
        ]
        plot.line([(x, y) for x, y, _ in points], f"series {style}")
        for x, y, depth in points:
            deepest = depth == result.depth
            title = f"{system.label}, depth {depth}: {figure(y)}, {milliseconds(x / 1000)} ms"
            plot.dot(x, y, f"dot {style}", radius=5 if deepest else 3, title=title)
            if len(result.backends) == 1 or deepest or depth == points[0][2]:
                plot.label(x, y, str(depth), style="note halo", dy=-9, anchor="middle")
    return plot.svg()


def depth_plot(result: Evaluation) -> HTML:
    """Draw quality against the number of candidates reranked, with confidence intervals."""
    metric = result.metrics[0]
    depths = [point.depth for point in result.backends[0].by_depth]
    ranges = [
        (point.figures[metric].low, point.figures[metric].high)
        for each in result.backends
        for point in each.by_depth
    ]
    base = result.baseline.figures[metric]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    marks = nice_ticks(*_padded(min(low, base.low), max(high, base.high)))
    plot = Plot(
        (-0.15, len(depths) + 0.15),
        (marks[0], marks[-1]),
        label=f"{metric} against the number of candidates reranked",
    )
    plot.axes(
        [(place, str(depth)) for place, depth in enumerate([0, *depths])],
        [(mark, f"{mark:g}") for mark in marks],
        x_title="candidates reranked (0: the first stage's order)",
        y_title=metric,
    )
    for system in result.backends:
        estimates = [base, *(point.figures[metric] for point in system.by_depth)]
        plot.band(
            [(n, e.low, e.high) for n, e in enumerate(estimates)], f"band {colour(result, system)}"
        )
    plot.line([(-0.15, base.mean), (len(depths) + 0.15, base.mean)], "base")
    for system in result.backends:
        style = colour(result, system)
        estimates = [base, *(point.figures[metric] for point in system.by_depth)]
        plot.line([(n, e.mean) for n, e in enumerate(estimates)], f"series {style}")
        for place, point in enumerate(system.by_depth, start=1):
            value = point.figures[metric].mean
            title = f"{system.label}, depth {point.depth}: {figure(value)}"
            plot.dot(place, value, f"dot {style}", radius=3.5, title=title)
    return plot.svg()


def gain_plot(result: Evaluation, system: System) -> HTML:
    """Draw the gain of each query over the first stage as bars, the best first."""
    metric = result.metrics[0]
    gains = sorted(
        (
            (after - before, query)
            for query, before, after in zip(
                result.dataset.queries,
                result.baseline.values[metric],
                system.values[metric],
                strict=True,
            )
        ),
        key=lambda item: -item[0],
    )
    highest, lowest = max(gains[0][0], 0.1), min(gains[-1][0], -0.1)
    plot = Plot(
        (0, len(gains)),
        (lowest - 0.05, highest + 0.05),
        label=f"gain in {metric} of each query, the best first",
        width=940,
        height=200,
        foot=12,
    )
    ticks = [
        tick for tick in nice_ticks(lowest, highest, 4) if lowest - 0.02 <= tick <= highest + 0.02
    ]
    plot.axes(
        [],
        [(tick, signed(tick)[:5] if tick else "0") for tick in ticks],
        x_title="",
        y_title="",
    )
    titled = len(gains) <= _TITLED
    for place, (gain, query) in enumerate(gains):
        style = "good" if gain > 0 else "bad" if gain < 0 else "same"
        words = excerpt(result.dataset.queries[query], 120)
        plot.bar(place, 1, gain, style, f"{signed(gain)}  {words}" if titled else "")
    better, worse = sum(g > 0 for g, _ in gains), sum(g < 0 for g, _ in gains)
    same = len(gains) - better - worse
    for start, count, word, dy in (
        (0, better, "better", 16),
        (better, same, "the same", -7),
        (better + same, worse, "worse", -7),
    ):
        if count:
            middle = start + count / 2
            words = f"{count} {word}"
            plot.label(middle, 0, words, style="note halo", dy=dy, anchor="middle")
    return plot.svg()


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = max(0.08 * (high - low), 0.01)
    return max(0.0, low - pad), min(1.0, high + pad)


def _powers(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 2 else (1,)  # noqa: PLR2004
    return [step * 10.0**power for power in range(first - 1, last + 1) for step in steps]
