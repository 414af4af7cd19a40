"""From scores to an order."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import ConfigError, InvalidResponse, Ranked, rank

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite))
def test_rank_without_limits_is_a_stable_sort(scores):
    ranked = rank(scores)

    assert sorted(range(len(scores)), key=lambda i: -scores[i]) == [r.index for r in ranked]
    assert [scores[r.index] for r in ranked] == [r.score for r in ranked]


@given(st.lists(finite), st.none() | st.integers(0, 20), st.none() | finite)
def test_rank_keeps_the_best_that_reach_the_minimum(scores, top_n, min_score):
    expected = [r for r in rank(scores) if min_score is None or r.score >= min_score]

    assert expected[:top_n] == rank(scores, top_n=top_n, min_score=min_score)


def test_ties_keep_the_input_order():
    assert [1, 0, 2, 3] == [r.index for r in rank([0.5, 0.9, 0.5, 0.5])]


def test_negative_zero_ties_with_zero():
    assert [0, 1] == [r.index for r in rank([-0.0, 0.0])]


def test_min_score_is_inclusive():
    assert [Ranked(1, 0.5)] == rank([0.49, 0.5], min_score=0.5)


def test_rank_returns_python_floats_for_numpy_scores():
    ranked = rank(np.array([1, 2], dtype=np.float32))

    assert [float, float] == [type(r.score) for r in ranked]


def test_rank_does_not_change_its_input():
    scores = [1.0, 3.0, 2.0]
    rank(scores, top_n=1)

    assert [1.0, 3.0, 2.0] == scores


@pytest.mark.parametrize("top_n", [-1, 1.0, "3", True])
def test_rank_refuses_a_wrong_top_n(top_n):
    with pytest.raises(ConfigError, match=r"`top_n` must be None .* not "):
        rank([1.0], top_n=top_n)


@pytest.mark.parametrize("min_score", [math.nan, math.inf, "0.5", True])
def test_rank_refuses_a_wrong_min_score(min_score):
    with pytest.raises(ConfigError, match="`min_score` must be None or a finite number"):
        rank([1.0], min_score=min_score)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, None, "0.5", True, 10**400])
def test_a_score_that_is_no_finite_number_is_refused(score):
    with pytest.raises(InvalidResponse, match="score 1 of 2 is"):
        rank([0.5, score])


@pytest.mark.parametrize("scores", [(score for score in [0.5]), {0: 0.5}, {0.5}, None, 0.5])
def test_scores_that_are_not_a_list_are_refused(scores):
    with pytest.raises(InvalidResponse, match="not a list of scores"):
        rank(scores)
