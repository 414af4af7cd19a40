"""A reliability diagram: the share of relevant documents against the probability."""

from __future__ import annotations

from rerank_plugins._internal.html import HTML, Templates
from rerank_plugins.evaluation.calibration.calibrate import Measured
from rerank_plugins.evaluation.report.svg import Plot

__all__ = ["reliability_plot"]

_TEMPLATES = Templates("rerank_plugins.evaluation.report", "reliability.svg")
_TICKS = [(tick / 5, f"{tick / 5:g}") for tick in range(6)]
_LEAST, _LARGEST = 3.0, 9.0


def reliability_plot(before: Measured, after: Measured, *, title: str) -> HTML:
    """Draw two curves as an SVG that stands alone; the size of a dot shows how many pairs it is.

    Args:
        before: the scores as they came.
        after: the calibrated ones.
        title: what both were measured on.
    """
    plot = Plot((0, 1), (0, 1), label=f"reliability: {title}", width=440, height=430)
    plot.axes(_TICKS, _TICKS, x_title="probability", y_title="share that is relevant")
    plot.line([(0, 0), (1, 1)], "base")
    for style, name, measured, dy in (
        ("c2", "before", before, 24),
        ("c1", "after", after, 42),
    ):
        plot.line([(each.predicted, each.observed) for each in measured.bins], f"series {style}")
        for each in measured.bins:
            share = f"{each.observed:.1%} of {each.pairs:,} at {each.predicted:.3f}"
            words = f"{name}: {share} are relevant"
            radius = _LEAST + (_LARGEST - _LEAST) * (each.pairs / measured.pairs) ** 0.5
            plot.dot(each.predicted, each.observed, f"dot {style}", radius=radius, title=words)
        error = measured.error
        plot.dot(0.04, 1, f"dot {style}", dy=dy)
        words = f"{name}: error {error.mean:.3f} ({error.low:.3f} to {error.high:.3f})"
        plot.label(0.06, 1, words, style="note halo", dy=dy + 4)
    svg = plot.svg()
    end = svg.index(">") + 1
    return HTML(svg[:end] + _TEMPLATES.fill("style") + svg[end:] + "\n")
