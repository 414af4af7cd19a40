"""Quantising matrices to 8 or 4 bits, and preparing inputs to lose little in 8 bits."""

from __future__ import annotations

import numpy as np

from rerank_plugins.backends.local.onnx.build.encoder import Linear
from rerank_plugins.backends.local.onnx.build.weights import Array

__all__ = ["BLOCK", "quantise", "quantise_blocks", "smooth", "split_outliers"]

BLOCK = 32
"""Numbers of a row that share a scale in 4 bits."""

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


def quantise_blocks(rows: Array) -> tuple[Array, Array]:
    """Return 4-bit integers, 0 to 15 where 8 stands for 0, two in a byte, and a scale per block.

    The largest magnitude of a block becomes -8, as in llama.cpp's Q4_0, so that numbers which were
    once rounded so come out the same.

    Args:
        rows: outputs x inputs; the last block is filled up with zeros.

    Returns:
        outputs x blocks x 16 bytes, the first number of two in the low bits, and outputs x blocks.
    """
    filled = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK)))
    blocks = filled.reshape(len(rows), -1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)
    scales = np.where(largest == 0, 1, largest / -8).astype(np.float32)
    numbers = (np.rint(blocks / scales) + 8).clip(0, 15).astype(np.uint8)
    return numbers[..., 0::2] | numbers[..., 1::2] << 4, scales[..., 0]


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
