"""Fit a rising curve from scores to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from rerank_plugins._internal.logistic import logit
from rerank_plugins.errors import DataError
from rerank_plugins.scores import Scale
from rerank_plugins.wrappers.calibrated import Calibration, Method, check_scale

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.floating[Any]]
    Indexes: TypeAlias = NDArray[np.integer[Any]]

__all__ = ["MINIMUM", "fit", "inputs_of"]

MINIMUM = {"temperature": 30, "platt": 30, "isotonic": 200}
"""How many relevant documents each method needs, and how many others."""

_STEPS = 100
_HALVINGS = 40
_CONVERGED = 1e-10


def fit(
    scores: Sequence[float],
    relevant: Sequence[bool],
    *,
    method: Method,
    scale: Scale,
    fitted_on: str | None = None,
) -> Calibration:
    """Fit the likeliest curve of a form.

    Temperature and Platt's line are fitted by Newton's method, to targets that stay away from 0
    and 1 as in Platt (1999), so that data which a score separates perfectly give a finite curve.
    The isotonic curve has the means that pool-adjacent-violators finds as its knots.

    Args:
        scores: the scores of a backend.
        relevant: whether each document is relevant.
        method: the form of the curve.
        scale: the scale of the scores.
        fitted_on: the name of the backend, kept in the calibration.

    Raises:
        ConfigError: the scale is not one that the method takes.
        DataError: there is too little data, a score is not finite, all scores are equal, or
            relevant documents score no higher than others.
    """
    import numpy as np  # noqa: PLC0415  # heavy

    if method == "temperature":
        check_scale(scale)
    x, y = inputs_of(scores, scale), np.asarray(relevant, dtype=np.float64)
    _check(x, y, method)
    if method == "isotonic":
        knots, means = _isotonic(x, y)
        return Calibration(
            method=method,
            scale=scale,
            scores=tuple(map(float, knots)),
            probabilities=tuple(map(float, means)),
            fitted_on=fitted_on,
        )
    slope, offset = _logistic(x, y, with_offset=method == "platt")
    if not slope > 0:
        raise _no_order(method)
    if method == "platt":
        return Calibration(
            method=method, scale=scale, slope=slope, offset=offset, fitted_on=fitted_on
        )
    return Calibration(method=method, scale=scale, temperature=1.0 / slope, fitted_on=fitted_on)


def inputs_of(scores: Sequence[float], scale: Scale) -> Array:
    """Return what the curve takes: logits of probabilities, other scores as they are."""
    import numpy as np  # noqa: PLC0415  # heavy

    values = np.asarray(scores, dtype=np.float64)
    if scale == "probability" and np.isfinite(values).all():
        values = np.array([logit(value) for value in values.tolist()])
    return values


def _check(x: Array, y: Array, method: Method) -> None:
    import numpy as np  # noqa: PLC0415  # heavy

    if len(x) != len(y):
        raise DataError(f"{len(x)} scores, and {len(y)} judgements")
    if not np.isfinite(x).all():
        raise DataError(f"score {int(np.argmin(np.isfinite(x)))} is not a finite number")
    positive, least = int(y.sum()), MINIMUM[method]
    if min(positive, len(y) - positive) < least:
        raise DataError(
            f"{positive:,} relevant documents and {len(y) - positive:,} others are too few to fit "
            f"by {method!r}: it needs {least} of each"
        )
    if x.min() == x.max():
        raise DataError(f"all {len(x):,} scores are equal, so no curve can be fitted to them")


def _no_order(method: Method) -> DataError:
    return DataError(
        f"no curve by {method!r} fits: relevant documents score no higher than others; check the "
        "model and the judgements"
    )


def _logistic(x: Array, y: Array, *, with_offset: bool) -> tuple[float, float]:
    """Return slope and offset of the likeliest logistic curve."""
    import numpy as np  # noqa: PLC0415  # heavy

    positive = y.sum()
    negative = len(y) - positive
    target = np.where(y > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    centre, spread = (float(x.mean()) if with_offset else 0.0), float(x.std()) or 1.0
    columns = [(x - centre) / spread, *([np.ones_like(x)] if with_offset else [])]
    design = np.stack(columns, axis=1)
    weights = np.zeros(design.shape[1])
    best = _loss(design @ weights, target)
    for _ in range(_STEPS):
        p = _sigmoids(design @ weights)
        gradient = design.T @ (target - p)
        curvature = (design * (p * (1.0 - p))[:, None]).T @ design
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(weights)), gradient)
        for _ in range(_HALVINGS):
            loss = _loss(design @ (weights + step), target)
            if loss <= best:
                break
            step /= 2.0
        else:
            break
        weights, gain, best = weights + step, best - loss, loss
        if gain < _CONVERGED * abs(best):
            break
    slope = float(weights[0]) / spread
    return slope, (float(weights[1]) - slope * centre if with_offset else 0.0)


def _sigmoids(z: Array) -> Array:
    import numpy as np  # noqa: PLC0415  # heavy

    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def _loss(z: Array, target: Array) -> float:
    """Return the sum of the log losses."""
    import numpy as np  # noqa: PLC0415  # heavy

    return float((np.logaddexp(0.0, z) - target * z).sum())


def _isotonic(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the knots of the likeliest rising steps: the mean score and share of each block."""
    import numpy as np  # noqa: PLC0415  # heavy

    values, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    hits = np.bincount(places, weights=y)
    blocks: list[list[float]] = []  # each is sum of scores, relevant ones, and count
    for value, hit, count in zip(values.tolist(), hits.tolist(), counts.tolist(), strict=True):
        blocks.append([value * count, hit, float(count)])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][2] >= blocks[-1][1] * blocks[-2][2]:
            last = blocks.pop()
            blocks[-1] = [one + other for one, other in zip(blocks[-1], last, strict=True)]
    if len(blocks) < 2:  # noqa: PLR2004  # one block is a flat line
        raise _no_order("isotonic")
    knots = np.array([total / count for total, _, count in blocks])
    means = np.array([hit / count for _, hit, count in blocks])
    if means[0] == 0.0:  # no share of so many is known to be nothing
        means[0] = min(0.5 / (blocks[0][2] + 1.0), means[1] / 2.0)
    if means[-1] == 1.0:
        means[-1] = max(1.0 - 0.5 / (blocks[-1][2] + 1.0), (1.0 + means[-2]) / 2.0)
    return knots, means
