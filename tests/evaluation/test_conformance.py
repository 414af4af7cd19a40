"""Violations of the contract are found, and a conforming backend passes."""

import itertools

import pytest

from rerank_plugins import Backend, InvalidResponse, load_backend
from rerank_plugins.evaluation.conformance import check_conformance
from rerank_plugins.testing import FakeBackend

COUNTER = itertools.count()


class Liar(Backend):
    """Scores by a function of all documents."""

    name = "liar"

    def __init__(self, lie, *, pointwise=True):
        self.lie = lie
        self.pointwise = pointwise

    def score(self, query, documents):
        return self.lie(list(documents))


LIES = {
    "not a finite number": lambda documents: [float("nan")] * len(documents),
    "got 4 scores for 5 documents": lambda documents: [0.5] * (len(documents) - 1),
    "the same request got different scores: ": lambda documents: [
        float(next(COUNTER)) for _ in documents
    ],
    "depends on the order of the documents: 0.4 and 0$": lambda documents: [
        place / 10 for place in range(len(documents))
    ],
    "equal documents got different scores: 0.16 and 1.16": lambda documents: [
        len(text) / 100 + (len(set(documents)) == 1) * place for place, text in enumerate(documents)
    ],
}


@pytest.mark.parametrize("reason", LIES)
def test_violations_are_found(reason):
    with pytest.raises(InvalidResponse, match=reason):
        check_conformance(Liar(LIES[reason]))


@pytest.mark.parametrize("backend", ["embedded", FakeBackend()])
def test_a_conforming_backend_passes(backend):
    check_conformance(load_backend(backend))


def test_a_listwise_score_may_depend_on_other_documents():
    check_conformance(Liar(lambda documents: [*map(float, range(len(documents)))], pointwise=False))


def test_the_rounding_of_half_precision_is_tolerated():
    noise = itertools.cycle([0.0, 0.001])

    check_conformance(Liar(lambda documents: [0.1 + next(noise)] * len(documents)))
