"""Percentiles by nearest rank, against hand-worked cases."""

import pytest

from rerank_plugins.evaluation.percentile import percentile


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(0, 1.0), (20, 1.0), (20.1, 2.0), (50, 3.0), (95, 5.0), (100, 5.0)],
)
def test_it_is_the_least_value_that_so_many_do_not_exceed(percent, expected):
    assert expected == percentile([5.0, 1.0, 4.0, 2.0, 3.0], percent)


def test_of_an_even_number_the_median_is_the_lower_one():
    """One of the values, never a mean of two."""
    assert 1.0 == percentile([1.0, 2.0], 50)


def test_of_twenty_calls_one_may_take_longer_than_the_95th_percentile():
    assert 19.0 == percentile(list(map(float, range(1, 21))), 95)
