"""How requests reach the backend, by what it is."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.server import ServerSettings
from rerank_plugins.server.scoring import BatchedScoring, ConcurrentScoring, select_scoring
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.retry import RetryingBackend


class Listwise(FakeBackend):
    pointwise = False


class Uncached(FakeBackend):
    """Scores a document by itself, but not always in the same way."""

    cacheable = False


def scoring_of(backend, *, remote=False):
    scoring = select_scoring(backend, ServerSettings(), (), remote=remote, max_length=512)
    scoring.close()
    return type(scoring)


@pytest.mark.parametrize("backend", [FakeBackend(), Uncached(), RetryingBackend(FakeBackend())])
def test_a_pointwise_model_shares_batches(backend):
    assert BatchedScoring is scoring_of(backend)


@pytest.mark.parametrize(
    "backend",
    [
        Listwise(),
        RetryingBackend(Listwise()),
        FallbackBackend([FakeBackend(), FakeBackend()]),
        RetryingBackend(FallbackBackend([FakeBackend(), FakeBackend()])),
    ],
)
def test_requests_that_must_not_be_split_are_concurrent(backend):
    assert ConcurrentScoring is scoring_of(backend)


def test_requests_to_another_server_are_concurrent():
    assert ConcurrentScoring is scoring_of(FakeBackend(), remote=True)
