"""Intervals and tests: against SciPy, and against hand-worked cases."""

import random

import numpy as np
import pytest

from rerank_plugins.evaluation.statistics import estimates, holm, paired_p_values

stats = pytest.importorskip("scipy.stats", reason="needs the extra `dev`")


def sample(size, shift=0.0, seed=1):
    draw = random.Random(seed)
    return [draw.gauss(shift, 1.0) for _ in range(size)]


def scipys_p_value(differences, resamples=np.inf):
    return stats.permutation_test(
        (np.asarray(differences),),
        np.mean,
        permutation_type="samples",
        n_resamples=resamples,
        rng=np.random.default_rng(3),
    ).pvalue


@pytest.mark.parametrize("size", [2, 5, 12])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_few_queries_get_scipys_exact_p_value(size, shift):
    differences = sample(size, shift)

    assert pytest.approx(scipys_p_value(differences)) == paired_p_values([differences], seed=0)[0]


@pytest.mark.parametrize("shift", [0.05, 0.2])
def test_many_queries_get_scipys_p_value_up_to_chance(shift):
    differences = sample(150, shift)
    expected = scipys_p_value(differences, 20_000)

    assert pytest.approx(expected, abs=0.015) == paired_p_values([differences], seed=0)[0]


def test_queries_that_did_not_change_do_not_matter():
    changed = [0.5, 0.25, 0.1, -0.05]
    (alone,), (among,) = (
        paired_p_values([changed], seed=0),
        paired_p_values([[0.0] * 1000 + changed], seed=0),
    )

    assert 4 / 16 == alone == among


def test_no_change_at_all_has_a_p_value_of_one():
    assert [1.0] == paired_p_values([[0.0] * 50], seed=0)


def test_a_p_value_is_never_zero():
    (p_value,) = paired_p_values([[1.0] * 100], seed=0)

    assert pytest.approx(1 / 10_001) == p_value


def test_ties_count_as_extreme_whatever_the_rounding():
    """Sums of 0.1, 0.2 and 0.3 differ in their last bit with their order."""
    (p_value,) = paired_p_values([[0.1, 0.2, 0.3, -0.1]], seed=0)

    assert scipys_p_value([0.1, 0.2, 0.3, -0.1]) == p_value


def test_intervals_are_scipys_percentile_bootstrap_up_to_chance():
    values = sample(200, 0.5)
    (estimate,) = estimates([values], seed=0)
    low, high = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(3)
    ).confidence_interval

    assert pytest.approx(np.mean(values)) == estimate.mean
    assert pytest.approx((low, high), abs=0.01) == (estimate.low, estimate.high)


def test_equal_seeds_give_equal_intervals():
    columns = [sample(40), sample(40, 1.0)]

    assert estimates(columns, seed=5) == estimates(columns, seed=5)
    assert estimates(columns, seed=5) != estimates(columns, seed=6)
    assert [] == estimates([], seed=5)


def test_intervals_cover_the_true_mean_at_their_rate():
    """300 samples of 60: 95 % of the intervals hold the true mean, give or take chance."""
    columns = [sample(60, 0.3, seed) for seed in range(300)]
    covered = sum(e.low <= 0.3 <= e.high for e in estimates(columns, seed=0))

    assert 0.90 < covered / 300 < 0.98


def test_holm_adjusts_for_the_number_of_comparisons():
    assert pytest.approx([0.03, 0.06, 0.06]) == holm([0.01, 0.04, 0.03])
    assert [1.0, 1.0] == holm([0.7, 0.9])
    assert [0.2] == holm([0.2])
    assert [] == holm([])
