"""Holding matrices in 8 bits, and making the best of 8 bits for what they multiply."""

from __future__ import annotations

import numpy as np

from rerank_plugins.backends.local.onnx.build.encoder import Linear
from rerank_plugins.backends.local.onnx.build.weights import Array

__all__ = ["split_outliers", "quantise", "smooth"]

_SHARE = 0.65
"""How much of the differences between inputs moves into the matrix (SmoothQuant's alpha)."""

_FEW = 16
"""Inputs that are worth more than 8 bits: most layers have about ten that stand out."""

_SMALLEST = 1e-5


def quantise(rows: Array, *, pairs: bool) -> tuple[Array, Array]:
    """Return 8-bit integers and the factor of each row that gives the numbers back.

    With `pairs`, no two neighbours add up to more than 128: x86 processors without VNNI add the
    products of two neighbours in 16 bits, and would saturate where others do not.
    """
    largest = np.abs(rows).max(axis=1, keepdims=True)
    if pairs:
        even = rows[:, : rows.shape[1] // 2 * 2]
        sums = np.abs(even[:, 0::2] + even[:, 1::2]).max(axis=1, keepdims=True, initial=0)
        largest = np.maximum(largest, sums)
    scales = np.where(largest == 0, 1, largest / 127).astype(np.float32)
    with np.errstate(invalid="ignore"):  # what is no number makes the scale none, and the scores
        return np.rint(rows / scales).astype(np.int8), scales


def smooth(linear: Linear, peaks: Array) -> tuple[Linear, Array]:
    """Return a linear map of inputs that are more alike in size, and what to multiply them by.

    One scale holds for all inputs of a run, so a few large ones leave few steps for the others.
    Making those smaller and their columns larger changes nothing but the rounding
    (SmoothQuant, https://arxiv.org/abs/2211.10438).

    Args:
        linear: the map.
        peaks: the largest size seen of each input.
    """
    columns = np.maximum(np.abs(linear.weight).max(axis=0), _SMALLEST)
    factors = np.maximum(peaks, _SMALLEST) ** _SHARE / columns ** (1 - _SHARE)
    factors = (factors / np.median(factors)).astype(np.float32)
    return Linear(linear.weight * factors, linear.bias), 1 / factors


def split_outliers(linear: Linear, peaks: Array) -> tuple[Array, Array]:
    """Tell the few inputs that stand out, in size or by their column, from the others.

    They would leave few steps for all others (LLM.int8, https://arxiv.org/abs/2208.07339).

    Args:
        linear: the map.
        peaks: the largest size seen of each input.

    Returns:
        The places of the few and of the others, each in order.
    """
    columns = np.abs(linear.weight).max(axis=0)
    standing = [sizes / max(np.median(sizes), _SMALLEST) for sizes in (peaks, columns)]
    order = np.argsort(-np.maximum(*standing), kind="stable")
    return np.sort(order[:_FEW]), np.sort(order[_FEW:])
