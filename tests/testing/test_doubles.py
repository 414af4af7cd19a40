"""The contract suite, run over the test doubles; which tests run for which backends."""

import unittest

import pytest

from rerank_plugins import Backend
from rerank_plugins.testing import BackendContract, FakeBackend


class TestFakeBackend(BackendContract):
    picklable = True

    def make_backend(self) -> Backend:
        return FakeBackend()


class Listwise(BackendContract):
    """Scores each document by its position, so that equal documents score differently."""

    picklable = False

    def make_backend(self) -> Backend:
        class ByPlace(FakeBackend):
            pointwise = False

            def score(self, query, documents):
                return [1 / (2 + place) for place, _ in enumerate(super().score(query, documents))]

        return ByPlace()


@pytest.mark.parametrize("name", [name for name in dir(Listwise) if name.startswith("test_")])
def test_a_listwise_backend_passes_the_contract_without_its_pointwise_tests(name):
    skipped = {
        "test_concurrent_ascore_keeps_requests_apart",
        "test_equal_documents_score_alike",
        "test_scores_follow_the_input_order",
        "test_survives_pickle",
    }
    if name not in skipped:
        getattr(Listwise(), name)()
        return
    with pytest.raises(unittest.SkipTest):
        getattr(Listwise(), name)()


def test_scores_of_a_function_of_whole_numbers_are_floats():
    """As the contract wants them."""
    scores = FakeBackend(lambda query, document: len(document), scale="logit").score("q", ["abc"])

    assert [3.0] == scores
    assert float is type(scores[0])
