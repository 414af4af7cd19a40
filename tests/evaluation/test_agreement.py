"""The similarity of two orders, compared with other implementations."""

import random

import pytest

from rerank_plugins import ConfigError
from rerank_plugins.evaluation.agreement import rank_biased_overlap

# Computed by `RankingSimilarity(range(n), order).rbo_ext(p)` of the package rbo 0.1.3, which needs
# an old NumPy and so can't be installed beside us.
BY_RBO = [
    ([0, 1], 0.5, 1.0),
    ([3, 0, 4, 1, 2], 0.9, 0.782775),
    ([9, 5, 6, 7, 1, 4, 0, 8, 11, 3, 2, 10], 0.9, 0.5303361020376625),
    ([7, 3, 5, 11, 8, 1, 6, 4, 0, 9, 10, 2], 0.98, 0.886299792172146),
    (
        [2, 9, 4, 11, 0, 1, 13, 7, 12, 3, 10, 8, 5, 14, 6],
        0.8,
        0.35152638976661077,
    ),
]


@pytest.mark.parametrize(("order", "p", "expected"), BY_RBO)
def test_rbo_equals_what_the_package_rbo_computes(order, p, expected):
    assert expected == pytest.approx(rank_biased_overlap(range(len(order)), order, p=p), abs=1e-12)


def test_rbo_equals_its_definition_summed_far_beyond_the_end():
    for seed in range(50):
        drawn = random.Random(seed)
        count, p = drawn.randint(1, 40), drawn.uniform(0.1, 0.97)
        one, other = (drawn.sample(range(count), count) for _ in range(2))
        total = sum(
            (1 - p) * p ** (d - 1) * len({*one[:d]} & {*other[:d]}) / min(d, count)
            for d in range(1, 2000)
        )

        assert total == pytest.approx(rank_biased_overlap(one, other, p=p), abs=1e-9)


@pytest.mark.parametrize(
    ("one", "other", "p", "message"),
    [
        ([0, 1], [1, 0], 1.0, "between 0 and 1"),
        ([0, 1], [0, 0], 0.9, "the same documents"),
        ([0, 0], [0, 0], 0.9, "each once"),
        ([0], [0, 1], 0.9, "1 and 2 documents"),
    ],
)
def test_rbo_refuses_invalid_arguments(one, other, p, message):
    with pytest.raises(ConfigError, match=message):
        rank_biased_overlap(one, other, p=p)
