"""How requests reach the backend, by its kind."""

import asyncio

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import BackendOverloaded
from rerank_plugins._internal.context import on_behalf_of
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


class Slow(FakeBackend):
    """Blocks until it is released."""

    async def ascore(self, query, documents):
        await self.may_score.wait()
        return [0.5] * len(documents)


def test_a_large_request_to_another_server_takes_no_more_of_the_queue_than_a_small_one():
    async def requests():
        backend = Slow()
        backend.may_score = asyncio.Event()
        scoring = ConcurrentScoring(backend, ServerSettings(queue_pairs=100), ())
        counts = (90, 5, 5, 5)
        tasks = [asyncio.create_task(scoring.score("q", ["a"] * count)) for count in counts]
        await asyncio.sleep(0)
        queued = scoring.queued_pairs
        with pytest.raises(BackendOverloaded, match="105 pairs wait and this request has 60"):
            await scoring.score("q", ["a"] * 60)
        backend.may_score.set()
        scores = await asyncio.gather(*tasks)
        return queued, scoring.queued_pairs, [len(each) for each in scores]

    assert (105, 0, [90, 5, 5, 5]) == asyncio.run(requests())


def test_a_client_with_many_requests_to_another_server_is_refused_before_the_others():
    async def requests():
        backend = Slow()
        backend.may_score = asyncio.Event()
        scoring = ConcurrentScoring(backend, ServerSettings(queue_pairs=100), ())

        def ask(name, count):
            with on_behalf_of(name):
                return asyncio.create_task(scoring.score("q", ["a"] * count))

        tasks = [ask("heavy", 10) for _ in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(BackendOverloaded, match="100 pairs wait and this request has 10"):
            await ask("heavy", 10)
        tasks += [ask(f"light {number}", 10) for number in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(BackendOverloaded, match="140 pairs wait and this request has 30"):
            await ask("light 0", 30)
        backend.may_score.set()
        scores = await asyncio.gather(*tasks)
        return [len(each) for each in scores], scoring._in_flight

    assert ([10] * 14, {}) == asyncio.run(requests())
