"""`Scores`: floats in document order, with facts about them."""

import pickle
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rerank_plugins import Backend, InvalidResponse, Passage, Scores, Usage
from rerank_plugins.backend import as_scores
from rerank_plugins.scores import check_scores


def test_scores_equal_a_list_of_the_same_floats():
    scores = Scores([0.5, 0.25], backend="b", cached=1)

    assert [0.5, 0.25] == scores
    assert scores == (0.5, 0.25)
    assert scores == Scores([0.5, 0.25])
    assert scores != [0.5]
    assert scores != [0.25, 0.5]
    assert scores != "ab"
    assert [] == Scores([])
    assert isinstance(scores, Sequence)


def test_scores_are_a_sequence():
    scores = Scores(value / 4 for value in range(4))

    assert 4 == len(scores)
    assert 0.75 == scores[-1]
    assert [0.25, 0.5] == scores[1:3]
    assert [0.0, 0.25, 0.5, 0.75] == list(scores)
    assert 0.5 in scores
    assert "Scores([0.0, 0.25, 0.5, 0.75])" == repr(scores)
    with pytest.raises(TypeError):
        hash(scores)
    with pytest.raises(AttributeError):
        scores.cached = 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.5", True, 10**400])
def test_scores_must_be_finite(value):
    with pytest.raises(InvalidResponse, match=r"score 1 of 2 is .*, which is not a finite number"):
        Scores([0.5, value])


def test_numbers_of_other_types_become_floats():
    scores = Scores([1, np.float32(0.5)])

    assert [1.0, 0.5] == scores
    assert all(type(score) is float for score in scores)


def test_facts_survive_pickle():
    scores = Scores([0.5], backend="b", truncated=[0], passages={0: Passage(1, 3)}, usage=Usage(7))
    scores = replace(scores, highlights={0: Passage(1, 2)})
    copy = pickle.loads(pickle.dumps(scores))

    assert scores == copy
    assert ("b", {0}, {0: (1, 3)}, {0: (1, 2)}, Usage(7)) == (
        copy.backend,
        copy.truncated,
        copy.passages,
        copy.highlights,
        copy.usage,
    )


def test_taking_positions_maps_the_facts_of_each_document():
    scores = Scores([0.1, 0.2, 0.3], truncated=[2], windows={0: 2}, passages={1: Passage(0, 1)})
    taken = scores.take([2, 0, 2])

    assert [0.3, 0.1, 0.3] == taken
    assert {0, 2} == taken.truncated
    assert {1} == taken.chunked
    assert {} == taken.passages
    scores = Scores([0.1, 0.2], highlights={1: Passage(0, 1)})
    assert {0: (0, 1), 2: (0, 1)} == scores.take([1, 0, 1]).highlights


def test_merging_puts_each_score_and_fact_in_its_place():
    merged = Scores.merge(
        4,
        [
            ([3, 1], Scores([0.3, 0.1], backend="b", scale="logit", truncated=[0], usage=Usage(5))),
            ([0], Scores([0.0], cached=1, passages={0: Passage(2, 4)}, highlights={0: (3, 4)})),
            ([2], Scores([0.2], backend="c", usage=Usage(2, 1))),
        ],
    )

    assert [0.0, 0.1, 0.2, 0.3] == merged
    assert {3} == merged.truncated
    assert ({0: (2, 4)}, {0: (3, 4)}) == (merged.passages, merged.highlights)
    assert ("b", "logit", 1) == (merged.backend, merged.scale, merged.cached)
    assert Usage(7, 1) == merged.usage


def test_merging_nothing_gives_no_scores():
    merged = Scores.merge(0, [])

    assert [] == merged
    assert merged.usage is None


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Usage(), Usage(), Usage()),
        (Usage(1), Usage(), Usage(1)),
        (Usage(), Usage(1, 2), Usage(1, 2)),
        (Usage(1, 1), Usage(2, 3), Usage(3, 4)),
    ],
)
def test_usage_adds_up_what_was_counted(one, other, both):
    assert both == one + other


class Plain(Backend):
    """A backend of a user's own, which returns a list."""

    scale = "logit"
    name = "plain"
    model = "m"

    def score(self, query, documents):
        return [1 for _ in documents]


def test_a_plain_list_gets_the_facts_of_its_backend():
    scores = as_scores(Plain().score("q", ["a", "b"]), 2, Plain())

    assert [1.0, 1.0] == scores
    assert all(type(score) is float for score in scores)
    assert ("plain", "m", "logit") == (scores.backend, scores.model, scores.scale)


def test_scores_of_a_users_backend_get_the_facts_that_they_lack():
    scores = as_scores(Scores([1.0], truncated=[0]), 1, Plain())
    named = as_scores(Scores([1.0], backend="other", scale="probability"), 1, Plain())

    assert ("plain", "m", "logit", {0}) == (
        scores.backend,
        scores.model,
        scores.scale,
        scores.truncated,
    )
    assert ("other", None, "probability") == (named.backend, named.model, named.scale)


@pytest.mark.parametrize(
    "answer",
    [
        [0.1],
        [0.1, float("nan")],
        0.1,
        ["0.1", "0.2"],
        [0.1, True],
        {0: 0.9, 1: 0.1},
        {0.9, 0.1},
        {0: 0.9, 1: 0.1}.keys(),
        b"ab",
        (score for score in (0.9, 0.1)),
    ],
)
def test_anything_but_one_finite_number_per_document_is_refused(answer):
    with pytest.raises(InvalidResponse):
        as_scores(answer, 2, Plain())
    with pytest.raises(InvalidResponse):
        as_scores(Scores([0.5]), 2, Plain())


@pytest.mark.parametrize("answer", [(0.1, 1), np.array([0.1, 1.0]), deque([0.1, 1])])
def test_any_sequence_of_numbers_is_accepted(answer):
    assert [0.1, 1.0] == as_scores(answer, 2, Plain())


@pytest.mark.parametrize(
    "facts",
    [
        {"truncated": [2]},
        {"windows": {-1: 2}},
        {"read": {2: 0.5}},
        {"passages": {"0": Passage(0, 1)}},
        {"highlights": {2: Passage(0, 1)}},
    ],
)
def test_a_fact_belongs_to_a_document(facts):
    with pytest.raises(InvalidResponse, match="a fact about document"):
        Scores([0.5, 0.25], **facts)


def test_passages_are_copied():
    passages = {0: Passage(0, 1)}
    scores = Scores([0.5], passages=passages)
    passages.clear()

    assert {0: Passage(0, 1)} == scores.passages


@pytest.mark.parametrize("count", [0, 1, 3])
def test_check_scores_refuses_another_count(count):
    with pytest.raises(InvalidResponse, match=f"got 2 scores for {count} documents"):
        check_scores([0.1, 0.2], count)


def test_check_scores_refuses_values_that_are_not_a_list():
    with pytest.raises(InvalidResponse, match="got `NoneType`, not a list of scores"):
        check_scores(None, 2)
