"""The interface, `rank()` and the checks that every backend shares."""

import asyncio
import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import Backend, ConfigError, Content, InvalidResponse, Ranked, rank
from rerank_plugins.content import check_texts
from rerank_plugins.errors import UnsupportedInputError
from rerank_plugins.scores import check_scores
from rerank_plugins.testing import FakeBackend, bad_requests

finite = st.floats(allow_nan=False, allow_infinity=False)


class Smallest(Backend):
    """Implements only what the interface asks for."""

    @property
    def name(self):
        return "smallest"

    def score(self, query, documents):
        self.thread = threading.get_ident()
        return [float(len(text)) for text in check_texts(query, documents)[1]]


@given(st.lists(finite))
def test_rank_without_limits_is_a_stable_sort(scores):
    ranked = rank(scores)

    assert sorted(range(len(scores)), key=lambda i: -scores[i]) == [r.index for r in ranked]
    assert [scores[r.index] for r in ranked] == [r.score for r in ranked]


@given(st.lists(finite), st.none() | st.integers(0, 20), st.none() | finite)
def test_rank_keeps_the_best_that_reach_the_minimum(scores, top_n, min_score):
    kept = [r for r in rank(scores) if min_score is None or r.score >= min_score]

    assert kept[:top_n] == rank(scores, top_n=top_n, min_score=min_score)


def test_ties_keep_the_input_order():
    assert [1, 0, 2, 3] == [r.index for r in rank([0.5, 0.9, 0.5, 0.5])]


def test_negative_zero_ties_with_zero():
    assert [0, 1] == [r.index for r in rank([-0.0, 0.0])]


def test_min_score_includes_its_own_value():
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


@pytest.mark.parametrize("count", [0, 1, 3])
def test_check_scores_refuses_another_count(count):
    with pytest.raises(InvalidResponse, match=f"got 2 scores for {count} documents"):
        check_scores([0.1, 0.2], count)


def test_check_scores_refuses_what_is_no_list():
    with pytest.raises(InvalidResponse, match="got `NoneType`, not a list of scores"):
        check_scores(None, 2)


@pytest.mark.parametrize("kind", bad_requests())
def test_check_texts_refuses(kind):
    query, documents = bad_requests()[kind]
    with pytest.raises(UnsupportedInputError):
        check_texts(query, documents)


def test_messages_repeat_no_text():
    with pytest.raises(UnsupportedInputError) as caught:
        check_texts("q", ["fine", "secret words \ud800"])

    assert "document 1" in str(caught.value)
    assert "U+D800 at 13" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_check_texts_returns_the_texts_in_order():
    documents = ("a", Content(text="b"), "", "\x00", "熊猫")

    assert ("q", ("a", "b", "", "\x00", "熊猫")) == check_texts("q", documents)


def test_content_needs_text_or_image():
    with pytest.raises(UnsupportedInputError, match="neither text nor an image"):
        Content()


def test_defaults_serve_a_backend_that_only_scores():
    """`score_many`, `ascore`, `describe` and the with-statements work unimplemented."""

    async def use():
        async with Smallest() as backend:
            return await backend.ascore("q", ["ab", "c"]), backend.thread

    scores, thread = asyncio.run(use())

    assert [2.0, 1.0] == scores
    assert threading.get_ident() != thread
    with Smallest() as backend:
        assert [[1.0], []] == backend.score_many([("q", ["a"]), ("q", [])])
        assert {"name": "smallest", "scale": "unknown", "cacheable": True} == backend.describe()
        assert "<Smallest>" == repr(backend)


def test_a_backend_that_cannot_be_written_says_so():
    with pytest.raises(ConfigError, match="`Smallest` can't be written as a spec"):
        Smallest().to_spec()


def test_leaving_the_with_statement_closes():
    with FakeBackend() as backend:
        assert 0 == backend.closed

    assert 1 == backend.closed
