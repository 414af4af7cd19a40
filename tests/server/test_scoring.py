"""How requests reach the backend, by its kind."""

import asyncio
import threading

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import Backend, BackendOverloaded, load_backend
from rerank_plugins._internal.context import on_behalf_of
from rerank_plugins.backends.embedded.backend import EmbeddedBackend
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.server import ServerSettings
from rerank_plugins.server.scoring import (
    _AT_A_PROCESS,
    _AT_A_SERVER,
    _IN_BATCHES,
    _THREADS,
    BatchedScoring,
    ConcurrentScoring,
    _most_at_once,
    select_scoring,
)
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.batching import BatchingBackend
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.ensemble import EnsembleBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.process import ModelProcess
from rerank_plugins.wrappers.retry import RetryingBackend
from tests.support.serving import serving


class Listwise(FakeBackend):
    pointwise = False


class Uncached(FakeBackend):
    """Scores a document by itself, but not always in the same way."""

    cacheable = False


def scoring_of(backend, *, remote=False):
    scoring = select_scoring(backend, ServerSettings(), (), remote=remote, document_tokens=512)
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


class Blocking(Backend):
    """Scores in threads, one request after another as they come."""

    name = "blocking"
    pointwise = False

    def __init__(self):
        self.may_score = threading.Event()
        self.order = []

    def score(self, query, documents):
        self.order.append(query)
        assert self.may_score.wait(30)
        return [0.5] * len(documents)


@pytest.mark.parametrize("heavy", [60, 200])
def test_a_client_with_many_requests_keeps_no_other_waiting(heavy):
    """Where threads take requests as they come, those of one client would all come first."""
    backend = Blocking()

    async def requests():
        scoring = ConcurrentScoring(backend, ServerSettings(), ())

        def ask(name):
            with on_behalf_of(name):
                return asyncio.create_task(scoring.score(name, ["a"]))

        tasks = [ask("heavy") for _ in range(heavy)]
        await asyncio.sleep(0.05)
        tasks += [ask("light")]
        await asyncio.sleep(0.05)
        backend.may_score.set()
        await asyncio.gather(*tasks)

    asyncio.run(requests())

    assert heavy + 1 == len(backend.order)
    assert backend.order.index("light") <= 2 * _THREADS


@pytest.mark.parametrize("heavy", [1, 3])
def test_a_client_whose_requests_were_dropped_keeps_no_other_waiting(heavy):
    """Their threads are at work until they are done, and have the turns of the client."""
    backend = Blocking()

    async def requests():
        scoring = ConcurrentScoring(backend, ServerSettings(), ())

        def ask(name):
            with on_behalf_of(name):
                return asyncio.create_task(scoring.score(name, ["a"]))

        dropped = [ask("heavy") for _ in range(heavy * _THREADS)]
        while len(backend.order) < _THREADS:  # noqa: ASYNC110  # threads tell no loop
            await asyncio.sleep(0.01)
        for task in dropped:
            task.cancel()
        await asyncio.wait(dropped)
        tasks = [*(ask("heavy") for _ in range(_THREADS)), ask("light")]
        await asyncio.sleep(0)
        at_work = scoring._turns._free
        backend.may_score.set()
        await asyncio.gather(*tasks)
        while scoring._turns._free < _THREADS:  # noqa: ASYNC110  # the dropped ones end by themselves
            await asyncio.sleep(0.01)
        return at_work, scoring._turns._free, scoring._in_flight

    assert (0, _THREADS, {}) == asyncio.run(requests())

    assert 2 * _THREADS + 1 == len(backend.order)
    assert backend.order.index("light") <= _THREADS + 2


@pytest.mark.parametrize("error", [BackendOverloaded("x"), ZeroDivisionError("x")])
def test_how_a_dropped_request_ends_is_not_logged(error, caplog):
    class Failing(Blocking):
        def score(self, query, documents):
            super().score(query, documents)
            raise error

    backend = Failing()

    async def requests():
        scoring = ConcurrentScoring(backend, ServerSettings(), ())
        task = asyncio.create_task(scoring.score("q", ["a"]))
        while not backend.order:  # noqa: ASYNC110  # threads tell no loop
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        backend.may_score.set()
        while scoring._turns._free < _THREADS:  # noqa: ASYNC110  # nobody waits for it
            await asyncio.sleep(0.01)

    asyncio.run(requests())

    assert "never retrieved" not in caplog.text


HTTP = load_backend("tei+http://127.0.0.1:9")
AT_ONCE = {
    "a server": (HTTP, _AT_A_SERVER),
    "two servers": (
        load_backend({"kind": "tei", "endpoints": ["http://127.0.0.1:9", "http://127.0.0.1:10"]}),
        2 * _AT_A_SERVER,
    ),
    "a server, then this process": (FallbackBackend([HTTP, Blocking()]), _AT_A_SERVER),
    "batches": (FallbackBackend([BatchingBackend(FakeBackend()), HTTP]), _IN_BATCHES),
    "a process": (ModelProcess(Listwise()), _AT_A_PROCESS),
    "a process, tried again": (RetryingBackend(ModelProcess(Listwise())), _AT_A_PROCESS),
    "threads": (Blocking(), _THREADS),
    "Bedrock": (load_backend("bedrock:amazon.rerank-v1:0"), _THREADS),
}


@pytest.mark.parametrize("name", AT_ONCE)
def test_as_many_requests_are_let_through_as_are_worked_on(name):
    backend, expected = AT_ONCE[name]

    assert expected == _most_at_once(backend)


@pytest.mark.parametrize(
    ("backend", "tokens"),
    [
        (FakeBackend(), None),
        (EmbeddedBackend(), 128 * 256),
        (EmbeddedBackend(max_windows=3, window_tokens=64), 3 * 64),
        (EmbeddedBackend(max_length=300), 300),
        (EmbeddedBackend(long_documents="truncate"), 1024),
        (LocalBackend("m"), 128 * 512),
        (LocalBackend("m", max_length=64, max_windows=3), 3 * 64),
        (LocalBackend("m", long_documents="truncate"), 512),
        (CachedBackend(LocalBackend("m", max_windows=2)), 1024),
        (ModelProcess(RetryingBackend(EmbeddedBackend())), 128 * 256),
        (EnsembleBackend([LocalBackend("m"), EmbeddedBackend()]), 128 * 512),
        (EnsembleBackend([LocalBackend("m"), FakeBackend()]), None),
    ],
    ids=repr,
)
def test_a_backend_says_how_much_of_a_document_it_reads(backend, tokens):
    assert tokens == backend.document_tokens


class Batches(FakeBackend):
    """Keeps the size of each batch."""

    def __init__(self, document_tokens):
        super().__init__()
        self.document_tokens = document_tokens
        self.sizes = []

    def score_many(self, requests):
        self.sizes.append(sum(len(documents) for _, documents in requests))
        return super().score_many(requests)


@pytest.mark.parametrize(("tokens", "sizes"), [(None, [2]), (1000, [2]), (4000, [1, 1])])
def test_a_long_document_costs_all_of_its_windows(tokens, sizes):
    """Not what a model reads at once: a client's long documents would be everybody's wait."""
    backend, documents = Batches(tokens), ["word " * 1600] * 2  # about 2,000 tokens each
    with serving(backend, batch_tokens=3000, warm_up=False) as client:
        client.post("/v1/rerank", json={"query": "q", "documents": ["a"]})  # tells its speed
        backend.sizes = []
        reply = client.post("/v1/rerank", json={"query": "q", "documents": documents})
    served, backend.sizes = backend.sizes, []
    with BatchingBackend(backend, batch_tokens=3000) as batching:
        batching.score("q", documents)

    assert 200 == reply.status_code
    assert (sizes, sizes) == (served, backend.sizes)


@pytest.mark.parametrize("documents", [3, 32, 300])
def test_a_model_of_unknown_speed_gets_a_small_batch_first(documents):
    """A full one takes minutes of a slow model, which would be killed as one that hangs."""
    backend = Batches(None)

    async def score():
        scoring = BatchedScoring(backend, ServerSettings(), (), 512, 512)
        try:
            await scoring.score("q", ["word " * 400] * documents)
        finally:
            scoring.close()

    asyncio.run(score())

    assert 2 == backend.sizes[0]
    assert documents == sum(backend.sizes)
