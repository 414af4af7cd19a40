"""How matrices are rounded to 8 bits."""

import numpy as np
import pytest

from rerank_plugins.backends.local.onnx.build.encoder import Linear
from rerank_plugins.backends.local.onnx.build.quantise import quantise, split_outliers


@pytest.mark.parametrize("width", [1, 2, 7, 64])
def test_no_two_neighbours_saturate_16_bits(width):
    """AVX2 adds two products of 0…255 and a weight in 16 bits."""
    weights = np.random.default_rng(13).standard_normal((200, width)).astype(np.float32)
    weights[0] = 1.0
    values, scales = quantise(weights, pairs=True)
    even = values[:, : width // 2 * 2].astype(int)

    assert np.abs(255 * (even[:, 0::2] + even[:, 1::2])).max(initial=0) < 1 << 15
    assert np.abs(values * scales - weights).max() <= scales.max() / 2 * 1.001
    assert np.abs(values.astype(int)).max(axis=1).min() >= 63


def test_rows_of_zeros_stay_zero():
    values, scales = quantise(np.zeros((2, 4), np.float32), pairs=True)

    assert not values.any()
    assert (scales == 1).all()


def test_outlier_inputs_are_detected():
    """By their magnitude, or by the weights that multiply them."""
    weight, peaks = np.ones((3, 40), np.float32), np.ones(40, np.float32)
    peaks[[0, 1, 2, 3, 4, 5, 6, 39]] = 10
    weight[1, [7, 8, 9, 10, 20, 30, 31, 32]] = -9

    few, others = split_outliers(Linear(weight, None), peaks)

    assert [*range(11), 20, 30, 31, 32, 39] == few.tolist()
    assert sorted({*range(40)} - {*few.tolist()}) == others.tolist()
