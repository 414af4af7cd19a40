"""Quantising matrices to 8 bits, and preparing inputs to lose little in 8 bits."""

from __future__ import annotations

import numpy as np

from rerank_plugins.backends.local.onnx.build.encoder import Linear
from rerank_plugins.backends.local.onnx.build.weights import Array

__all__ = ["quantise", "smooth", "split_outliers"]

_SHARE = 0.65
"""How much of the range of inputs moves into the matrix (SmoothQuant's alpha)."""

_OUTLIERS = 16
"""Inputs that stay in float32: most layers have about ten outliers."""

_SMALLEST = 1e-5


def quantise(rows: Array, *, pairs: bool) -> tuple[Array, Array]:
    """Return 8-bit integers, and the scale of each row.

    With `pairs`, no two neighbours add up to more than 128: x86 CPUs without VNNI add the products
    of two neighbours in 16 bits, and would saturate where others do not.
    """
    largest = np.abs(rows).max(axis=1, keepdims=True)
    if pairs:
        even = rows[:, : rows.shape[1] // 2 * 2]
        sums = np.abs(even[:, 0::2] + even[:, 1::2]).max(axis=1, keepdims=True, initial=0)
        largest = np.maximum(largest, sums)
    scales = np.where(largest == 0, 1, largest / 127).astype(np.float32)
    with np.errstate(invalid="ignore"):  # NaN weights propagate to the scale
        return np.rint(rows / scales).astype(np.int8), scales


def smooth(linear: Linear, peaks: Array) -> tuple[Linear, Array]:
    """Return a linear layer for inputs of similar range, and the factors to scale them with.

    All inputs of a run share one scale, so a few large ones leave few steps for the others. Scaling
    these down and their columns up changes only the rounding (SmoothQuant,
    https://arxiv.org/abs/2211.10438).

    Args:
        linear: the layer.
        peaks: the largest magnitude seen of each input.
    """
    columns = np.maximum(np.abs(linear.weight).max(axis=0), _SMALLEST)
    factors = np.maximum(peaks, _SMALLEST) ** _SHARE / columns ** (1 - _SHARE)
    factors = (factors / np.median(factors)).astype(np.float32)
    return Linear(linear.weight * factors, linear.bias), 1 / factors


def split_outliers(linear: Linear, peaks: Array) -> tuple[Array, Array]:
    """Split the inputs into outliers, by magnitude or by column, and the others.

    Outliers would leave few steps for all others (LLM.int8, https://arxiv.org/abs/2208.07339).

    Args:
        linear: the layer.
        peaks: the largest magnitude seen of each input.

    Returns:
        The positions of the outliers and of the others, each in order.
    """
    columns = np.abs(linear.weight).max(axis=0)
    ratios = [sizes / max(np.median(sizes), _SMALLEST) for sizes in (peaks, columns)]
    order = np.argsort(-np.maximum(*ratios), kind="stable")
    return np.sort(order[:_OUTLIERS]), np.sort(order[_OUTLIERS:])
