"""Percentiles against hand-worked cases, Kendall's τ-b against SciPy's."""

import math
import random

import pytest

from rerank_plugins import ConfigError
from rerank_plugins._internal.rank_statistics import kendall_tau, percentile


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(0, 1.0), (20, 1.0), (20.1, 2.0), (50, 3.0), (95, 5.0), (100, 5.0)],
)
def test_percentile_is_the_nearest_rank(percent, expected):
    assert expected == percentile([5.0, 1.0, 4.0, 2.0, 3.0], percent)


def test_median_of_an_even_number_is_the_lower_one():
    """One of the values, never a mean of two."""
    assert 1.0 == percentile([1.0, 2.0], 50)


def test_of_twenty_calls_one_may_take_longer_than_the_95th_percentile():
    assert 19.0 == percentile(list(map(float, range(1, 21))), 95)


def drawn_scores(seed):
    """Two lists of scores with many ties."""
    drawn = random.Random(seed)
    count, values = drawn.randint(2, 60), drawn.randint(2, 30)
    return [[float(drawn.randrange(values)) for _ in range(count)] for _ in range(2)]


def test_tau_equals_scipys_on_random_scores_with_ties():
    stats = pytest.importorskip("scipy.stats", reason="comes with the extra `local`")
    defined = 0
    for seed in range(300):
        one, other = drawn_scores(seed)
        tau = kendall_tau(one, other)
        expected = stats.kendalltau(one, other).statistic
        if tau is None:
            assert math.isnan(expected)
        else:
            defined += 1
            assert expected == pytest.approx(tau, abs=1e-12)

    assert 250 < defined


def test_tau_of_equal_and_opposite_orders():
    assert 1.0 == kendall_tau([3.0, 1.0, 2.0], [0.3, 0.1, 0.2])
    assert -1.0 == kendall_tau([3.0, 1.0, 2.0], [1.0, 3.0, 2.0])


@pytest.mark.parametrize(("one", "other"), [([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0])])
def test_tau_is_none_where_it_is_not_defined(one, other):
    assert None is kendall_tau(one, other)


def test_tau_needs_the_same_documents():
    with pytest.raises(ConfigError, match="1 and 2 scores"):
        kendall_tau([1.0], [1.0, 2.0])
