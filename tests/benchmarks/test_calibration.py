"""The benchmark of the embedded model's probabilities."""

import numpy as np
import pytest

from tests.benchmarks.calibration import bins, error, kept, logistic
from tests.benchmarks.plot import reliability


def test_the_fit_finds_the_logistic_curve():
    """One of four relevant at 0, three of four at 1: log-odds -ln 3 and +ln 3."""
    pairs = [(0.0, 1)] + [(0.0, 0)] * 3 + [(1.0, 1)] * 3 + [(1.0, 0)]

    slope, offset = logistic(np.array(pairs, float))

    assert (slope, offset) == pytest.approx((2 * np.log(3), -np.log(3)))


PAIRS = np.array([(0.21, 0), (0.23, 1), (0.95, 1), (1.0, 1)], float)


def test_the_error_is_the_mean_distance_of_the_tenths():
    assert [(0.22, 0.5, 2), (0.975, 1.0, 2)] == [pytest.approx(one) for one in bins(PAIRS)]
    assert error(PAIRS) == pytest.approx((0.28 + 0.025) / 2)
    assert "67% kept, 100% dropped" == kept(PAIRS, 0.5)


def test_the_plot_names_each_curve():
    svg = reliability("x", {"all": bins(PAIRS), "a < b": bins(PAIRS)})

    assert "all (4 pairs)" in svg
    assert 9 == reliability("x", {str(n): bins(PAIRS) for n in range(9)}).count("pairs)")
    assert "a &lt; b (4 pairs)" in svg
