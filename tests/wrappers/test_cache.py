"""The cache: what is scored, what is shared, and what must never happen."""

import asyncio
import contextlib
import gc
import json
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import (
    BackendUnavailable,
    ConfigError,
    Content,
    InvalidResponse,
    UnsupportedInputError,
    load_backend,
)
from rerank_plugins.backend import Backend
from rerank_plugins.testing import BackendContract, FailingBackend, FakeBackend
from rerank_plugins.wrappers import cache
from rerank_plugins.wrappers.base import WrapperBackend
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.retry import RetryingBackend
from rerank_plugins.wrappers.stores.memory import MemoryStore


class GatedBackend(FakeBackend):
    """Scores once its gate is open; counts its calls."""

    def __init__(self):
        super().__init__(len_score, scale="logit")
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def score(self, query, documents):
        self.entered.release()
        assert self.gate.wait(30)
        return super().score(query, documents)

    async def ascore(self, query, documents):
        self.entered.release()
        await auntil(self.gate.is_set)
        return super().score(query, documents)


def len_score(query, document):
    return len(query) * 100.0 + len(document)


def waiting(backend, count):
    """Whether `count` callers wait for what another one scores."""
    landings = [flight.entries for flight in set(backend._in_flight.values())]
    tasks = sum(len(scores._done_callbacks) for scores in landings)
    threads = sum(len(scores._condition._waiters) for scores in landings)
    return tasks + threads >= count


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


async def auntil(condition):
    end = time.monotonic() + 30
    while not condition():  # threads meet the condition too
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


def counts(backend):
    facts = backend.describe()["cache"]
    return facts["hits"], facts["shared"], facts["misses"]


class TestMemory(BackendContract):
    def make_backend(self):
        return CachedBackend(FakeBackend())


class TestSQLite(BackendContract):
    @pytest.fixture(autouse=True)
    def file(self, tmp_path):
        self.spec = f"sqlite:{tmp_path}/scores.db"

    def make_backend(self):
        return CachedBackend(FakeBackend(), store=self.spec)


def test_only_missing_documents_are_scored():
    wrapped = FakeBackend()
    backend = CachedBackend(wrapped)
    backend.score("panda", ["a panda", "b"])
    scores = backend.score("panda", ["c", "b", "a panda", "d panda"])

    assert [0.0, 0.0, 1.0, 1.0] == scores
    assert [("panda", ("a panda", "b")), ("panda", ("c", "d panda"))] == wrapped.calls


def test_the_backend_is_not_called_if_all_scores_are_cached():
    wrapped = FakeBackend()
    backend = CachedBackend(wrapped)
    first = backend.score("q", ["q", "r"])

    assert first == backend.score("q", ["q", "r"])
    assert first == asyncio.run(backend.ascore("q", ["q", "r"]))
    assert 1 == len(wrapped.calls)
    assert (4, 0, 2) == counts(backend)


def test_equal_documents_are_scored_once():
    wrapped = FakeBackend()

    assert [1.0, 0.0, 1.0] == CachedBackend(wrapped).score("q", ["q", "r", "q"])
    assert [("q", ("q", "r"))] == wrapped.calls


def test_many_requests_are_one_call():
    asked = []

    class Counting(FakeBackend):
        def score_many(self, requests):
            asked.append([(query, list(documents)) for query, documents in requests])
            return super().score_many(requests)

    wrapped = Counting(len_score, scale="logit")
    requests = [("a", ["x", "yy"]), ("bb", ["x"]), ("a", ["zzz", "x"]), ("a", [])]

    assert [[101.0, 102.0], [201.0], [103.0, 101.0], []] == CachedBackend(wrapped).score_many(
        requests
    )
    assert [[("a", ["x", "yy", "zzz"]), ("bb", ["x"])]] == asked


def test_content_is_cached_as_its_text_and_images_are_refused():
    wrapped = FakeBackend()
    backend = CachedBackend(wrapped)
    backend.score("q", ["q"])

    assert [1.0] == backend.score("q", [Content(text="q")])
    assert 1 == len(wrapped.calls)
    with pytest.raises(UnsupportedInputError):
        backend.score("q", [Content(text="q", image=b"\x89PNG")])


TEXTS = st.text("ab", max_size=2)
REQUESTS = st.lists(st.tuples(TEXTS.map("q".__add__), st.lists(TEXTS, max_size=5)), max_size=4)


@given(st.lists(st.tuples(REQUESTS, st.booleans()), max_size=4), st.integers(1, 6))
def test_cached_scores_are_the_scores(calls, entries):
    plain = FakeBackend(len_score, scale="logit")
    backend = CachedBackend(
        FakeBackend(len_score, scale="logit"), store=f"memory?entries={entries}"
    )
    for requests, sync in calls:
        expected = plain.score_many(requests)
        if sync:
            assert expected == backend.score_many(requests)
        else:
            assert expected == [asyncio.run(backend.ascore(*request)) for request in requests]


@pytest.mark.parametrize("other", [{"name": "other"}, {"scale": "logit"}])
def test_backends_of_different_names_or_scales_share_a_store_but_no_scores(other):
    store = MemoryStore()
    one = CachedBackend(FakeBackend(lambda q, d: 0.25), store=store)
    two = CachedBackend(FakeBackend(lambda q, d: 0.5, **other), store=store)

    assert [0.25] == one.score("q", ["d"])
    assert [0.5] == two.score("q", ["d"])
    assert [0.25] == one.score("q", ["d"])


def test_backends_of_equal_names_share_scores():
    store = MemoryStore()
    wrapped = FakeBackend()
    CachedBackend(FakeBackend(), store=store).score("q", ["q"])

    assert [1.0] == CachedBackend(wrapped, store=store).score("q", ["q"])
    assert [] == wrapped.calls


def test_scores_are_separate_for_each_secret(monkeypatch):
    store = MemoryStore()
    wrapped = FakeBackend()
    backend = CachedBackend(wrapped, store=store, secret_env="TENANT_KEY")
    for secret in ("one", "two", "one"):
        monkeypatch.setenv("TENANT_KEY", secret)
        backend.score("q", ["q"])

    assert 2 == len(wrapped.calls)


def test_an_expired_score_is_scored_again():
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()
    wrapped = FakeBackend()
    backend = CachedBackend(wrapped, store=MemoryStore(clock=clock), ttl=60.0)
    for clock.now in (0.0, 59.0, 61.0):
        backend.score("q", ["q"])

    assert 2 == len(wrapped.calls)


class LyingStore(MemoryStore):
    """Keeps values, and returns them changed."""

    def __init__(self, lie):
        super().__init__()
        self._lie = lie

    def get_many(self, keys):
        return self._lie(super().get_many(keys))


@pytest.mark.parametrize(
    "lie",
    [
        lambda values: values[::-1],
        lambda values: [value and b"\0" * 16 for value in values],
        lambda values: [value and value[:8] for value in values],
        lambda values: [value and b"" for value in values],
        lambda values: [value and 0.5 for value in values],
        lambda values: [value and b"\x80\x04]q." for value in values],  # a pickle
    ],
    ids=["swapped", "zeros", "cut", "empty", "no bytes", "pickle"],
)
def test_wrong_values_are_misses(lie):
    backend = CachedBackend(FakeBackend(), store=LyingStore(lie))
    for _ in range(2):
        assert [1.0, 0.0] == backend.score("q", ["q", "r"])

    assert 2 == backend.describe()["cache"]["damaged"]


def test_texts_are_not_stored():
    class Seen(MemoryStore):
        written = b""

        def set_many(self, items, ttl):
            self.written += b"".join(key + value for key, value in items.items())

    store = Seen()
    CachedBackend(FakeBackend(), store=store).score("a secret query", ["a secret document"])

    assert 36 == len(store.written)
    assert b"secret" not in store.written


def test_wrong_scores_are_neither_returned_nor_opened():
    scores = iter([float("nan"), 0.5])
    backend = CachedBackend(FakeBackend(lambda q, d: next(scores)))
    with pytest.raises(InvalidResponse):
        backend.score("q", ["d"])

    assert [0.5] == backend.score("q", ["d"])


def test_errors_reach_the_caller_and_are_not_opened():
    backend = CachedBackend(FailingBackend(BackendUnavailable("down")))
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="down"):
            backend.score("q", ["d"])

    assert {} == backend._in_flight
    assert (0, 0, 2) == counts(backend)


# One asks, the others wait.


def test_threads_with_the_same_request_share_one_call():
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(backend.score, "q", ["a", "bb"]) for _ in range(8)]
        until(lambda: waiting(backend, 7))
        wrapped.gate.set()
        assert [[101.0, 102.0]] * 8 == [call.result() for call in calls]
    assert [("q", ("a", "bb"))] == wrapped.calls
    assert (0, 14, 2) == counts(backend)
    assert {} == backend._in_flight


async def test_tasks_with_the_same_request_share_one_call():
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)
    calls = [asyncio.create_task(backend.ascore("q", ["a", "bb"])) for _ in range(8)]
    await auntil(lambda: waiting(backend, 7))
    wrapped.gate.set()

    assert [[101.0, 102.0]] * 8 == await asyncio.gather(*calls)
    assert [("q", ("a", "bb"))] == wrapped.calls


def test_event_loops_and_threads_wait_for_a_thread():
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(backend.score, "q", ["a"])
        until(lambda: wrapped.entered.acquire(blocking=False))
        calls = [pool.submit(asyncio.run, backend.ascore("q", ["a"])) for _ in range(2)]
        calls += [pool.submit(backend.score, "q", ["a"])]
        until(lambda: waiting(backend, 3))
        wrapped.gate.set()
        assert [[101.0]] * 4 == [call.result() for call in [first, *calls]]
    assert 1 == len(wrapped.calls)


def test_an_event_loop_waits_for_another_one():
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(asyncio.run, backend.ascore("q", ["a"])) for _ in range(2)]
        until(lambda: waiting(backend, 1))
        wrapped.gate.set()
        assert [[101.0]] * 2 == [call.result() for call in calls]
    assert 1 == len(wrapped.calls)


async def test_each_caller_scores_only_pairs_that_no_other_call_scores():
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)
    first = asyncio.create_task(backend.ascore("q", ["a", "bb"]))
    await auntil(lambda: wrapped.entered.acquire(blocking=False))
    second = asyncio.create_task(backend.ascore("q", ["ccc", "bb"]))
    await auntil(lambda: wrapped.entered.acquire(blocking=False))
    wrapped.gate.set()

    assert [101.0, 102.0] == await first
    assert [103.0, 102.0] == await second
    assert {("q", ("a", "bb")), ("q", ("ccc",))} == set(wrapped.calls)


class FailsFirst(GatedBackend):
    """Its first caller gets an error."""

    first = True

    async def ascore(self, query, documents):
        fails, self.first = self.first, False
        scores = await super().ascore(query, documents)
        if fails:
            raise BackendUnavailable("down")
        return scores

    def score(self, query, documents):
        fails, self.first = self.first, False
        scores = super().score(query, documents)
        if fails:
            raise BackendUnavailable("down")
        return scores


async def test_tasks_score_themselves_when_the_shared_call_fails():
    wrapped = FailsFirst()
    backend = CachedBackend(wrapped)
    calls = [asyncio.create_task(backend.ascore("q", ["a"])) for _ in range(3)]
    await auntil(lambda: waiting(backend, 2))
    wrapped.gate.set()
    first, *others = await asyncio.gather(*calls, return_exceptions=True)

    assert "down" == str(first)
    assert [[101.0]] * 2 == others
    assert {} == backend._in_flight


def test_threads_score_themselves_when_the_shared_call_fails():
    wrapped = FailsFirst()
    backend = CachedBackend(wrapped)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(backend.score, "q", ["a"]) for _ in range(3)]
        until(lambda: waiting(backend, 2))
        wrapped.gate.set()
        errors = [call.exception() for call in calls]
    assert ["down"] == [str(error) for error in errors if error]
    assert [[101.0]] * 2 == [call.result() for call in calls if not call.exception()]


async def test_tasks_score_themselves_when_the_shared_call_is_cancelled():
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)
    first, *others = [asyncio.create_task(backend.ascore("q", ["a"])) for _ in range(3)]
    await auntil(lambda: waiting(backend, 2))
    first.cancel()
    wrapped.gate.set()

    assert [[101.0]] * 2 == await asyncio.gather(*others)
    with pytest.raises(asyncio.CancelledError):
        await first
    assert {} == backend._in_flight


async def test_a_waiting_caller_can_be_cancelled_without_harm():
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)
    first, second, third = [asyncio.create_task(backend.ascore("q", ["a"])) for _ in range(3)]
    await auntil(lambda: waiting(backend, 2))
    second.cancel()
    await asyncio.wait([second])
    wrapped.gate.set()

    assert [[101.0]] * 2 == await asyncio.gather(first, third)
    assert second.cancelled()
    assert 1 == len(wrapped.calls)


def test_a_waiting_caller_whose_loop_is_closed_does_no_harm(caplog):
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)

    async def give_up():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(backend.ascore("q", ["a"]), 0.05)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(backend.score, "q", ["a"])
        until(lambda: wrapped.entered.acquire(blocking=False))
        asyncio.run(give_up())
        wrapped.gate.set()
        assert [101.0] == first.result()
    assert [] == caplog.messages


async def test_a_sync_call_on_the_loop_does_not_wait_for_that_loop():
    """It would wait forever: it keeps the loop from doing what it waits for."""
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)
    first = asyncio.create_task(backend.ascore("q", ["a"]))
    await auntil(lambda: wrapped.entered.acquire(blocking=False))
    wrapped.gate.set()

    assert [101.0] == backend.score("q", ["a"])
    assert [101.0] == await first


async def test_waiting_threads_do_not_exhaust_the_pool_of_a_task():
    """Sync callers fill the pool in which the task that they want scores from would score."""

    class InThreads(FakeBackend):
        started = threading.Event()

        async def ascore(self, query, documents):
            self.started.set()
            await asyncio.sleep(0.05)  # meanwhile the pool fills
            return await super().ascore(query, documents)

    backend = CachedBackend(InThreads())
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    first = asyncio.create_task(backend.ascore("q", ["q"]))
    await auntil(InThreads.started.is_set)
    others = [asyncio.to_thread(backend.score, "q", ["q"]) for _ in range(4)]

    assert [[1.0]] * 5 == await asyncio.wait_for(asyncio.gather(first, *others), 30)


def test_pairs_of_a_stopped_loop_are_scored_again():
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)
    loop = asyncio.new_event_loop()
    task = loop.create_task(backend.ascore("q", ["a"]))
    loop.run_until_complete(asyncio.sleep(0.02))
    wrapped.gate.set()

    assert [101.0] == asyncio.run(backend.ascore("q", ["a"]))
    assert [101.0] == backend.score("q", ["a"])
    assert [101.0] == loop.run_until_complete(task)
    loop.close()
    assert {} == backend._in_flight


def test_a_call_that_is_dropped_leaves_nothing_behind():
    async def drop():
        call = backend.ascore("q", ["a"])
        with contextlib.suppress(StopIteration):
            call.send(None)
        call.close()

    backend = CachedBackend(GatedBackend())
    asyncio.run(drop())
    gc.collect()

    assert {} == backend._in_flight


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent():
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(backend.score, "q", ["a"])
        until(lambda: wrapped.entered.acquire(blocking=False))
        child = os.fork()
        if child == 0:
            end = threading.Timer(30, os._exit, [2])  # instead of hanging
            end.daemon = True
            end.start()
            backend._children = (FakeBackend(len_score, scale="logit"),)
            os._exit(0 if backend.score("q", ["a"]) == [101.0] else 1)
        _, status = os.waitpid(child, 0)
        wrapped.gate.set()
        assert [101.0] == first.result()
    assert 0 == os.waitstatus_to_exitcode(status)


def test_pairs_stored_since_the_store_was_read_are_not_scored_again():
    class Overtaken(MemoryStore):
        """While the first caller reads, a second one comes, scores and leaves."""

        overtakes = True

        def get_many(self, keys):
            values = super().get_many(keys)
            if self.overtakes:
                self.overtakes = False
                backend.score("q", ["a"])
            return values

    wrapped = FakeBackend()
    backend = CachedBackend(wrapped, store=Overtaken())
    backend.score("q", ["a"])

    assert 1 == len(wrapped.calls)


def test_racing_threads_score_each_pair_once():
    wrapped = FakeBackend(len_score, scale="logit")
    backend = CachedBackend(wrapped)
    documents = ["x" * length for length in range(40)]
    barrier = threading.Barrier(8)

    def race(number):
        barrier.wait()
        return [backend.score("q", documents[n : n + 5]) for n in range(35)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(race, range(8)))
    asked = [text for _, texts in wrapped.calls for text in texts]

    assert all(results[0] == result for result in results)
    assert sorted(set(asked)) == sorted(asked)


def test_waiting_callers_do_not_wait_for_the_store():
    class Slow(MemoryStore):
        writing, gate = threading.Event(), threading.Event()

        def set_many(self, items, ttl):
            self.writing.set()
            assert self.gate.wait(30)

    backend = CachedBackend(FakeBackend(), store=Slow())
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(backend.score, "q", ["q"])
        assert Slow.writing.wait(30)
        assert [1.0] == backend.score("q", ["q"])
        assert not first.done()
        Slow.gate.set()
        assert [1.0] == first.result()
    assert (0, 1, 1) == counts(backend)


def test_a_caller_waits_no_longer_than_its_deadline():
    wrapped = GatedBackend()
    backend = CachedBackend(wrapped)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(backend.score, "q", ["a"])
        until(lambda: wrapped.entered.acquire(blocking=False))
        backend._children = (FakeBackend(len_score, scale="logit"),)
        with cache._context.until(time.monotonic() + 0.05):
            assert [101.0] == backend.score("q", ["a"])
        assert not first.done()
        wrapped.gate.set()
        first.result()


# What is not about scores.


class SlowlyNamed(FakeBackend):
    """Needs time to return its name, as if it loaded a model."""

    named_in = None

    @property
    def name(self):
        self.named_in = threading.get_ident()
        return "slow"


async def test_a_slow_name_does_not_block_the_loop():
    wrapped = SlowlyNamed()
    await CachedBackend(wrapped).ascore("q", ["q"])

    assert wrapped.named_in not in {None, threading.get_ident()}


def test_without_documents_the_name_is_not_read():
    wrapped = SlowlyNamed()

    assert [] == CachedBackend(wrapped).score("q", [])
    assert wrapped.named_in is None


async def test_a_store_that_blocks_is_used_in_threads():
    threads = set()

    class Blocking(MemoryStore):
        blocking = True

        def get_many(self, keys):
            threads.add(threading.get_ident())
            return super().get_many(keys)

        def set_many(self, items, ttl):
            threads.add(threading.get_ident())
            super().set_many(items, ttl)

        def close(self):
            threads.add(threading.get_ident())

    backend = CachedBackend(FakeBackend(), store=Blocking())
    await backend.ascore("q", ["q"])
    await backend.aclose()

    assert threads
    assert threading.get_ident() not in threads


class Passing(WrapperBackend):
    def flow(self, requests):
        raise NotImplementedError


class Listwise(FakeBackend):
    cacheable = False


@pytest.mark.parametrize("wrap", [lambda b: b, Passing])
def test_a_listwise_backend_is_refused(wrap):
    with pytest.raises(ConfigError, match="can't be cached"):
        CachedBackend(wrap(Listwise()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl": 0.0}, "`ttl` must be None or a number of seconds above 0, not 0.0"),
        ({"ttl": float("nan")}, "`ttl`"),
        ({"ttl": float("inf")}, "`ttl`"),
        ({"store": "disk"}, "'disk' is no kind of store; for a file write: sqlite:PATH"),
        ({"secret_env": "s3cret-value"}, "must be the name of an environment variable"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as raised:
        CachedBackend(FakeBackend(), **options)

    assert "s3cret" not in str(raised.value)


def test_facts_are_ready_for_json():
    backend = CachedBackend(FakeBackend(), ttl=None)
    backend.score("q", ["q"])

    expected = {
        "store": {
            "kind": "memory",
            "entries": 1,
            "max_entries": 100_000,
            "bytes": 346,
            "max_bytes": 1 << 28,
        },
        "ttl": None,
        "hits": 0,
        "shared": 0,
        "misses": 1,
        "damaged": 0,
    }
    assert expected == json.loads(json.dumps(backend.describe()))["cache"]


def test_a_pickled_cache_keeps_its_options_and_starts_empty():
    backend = CachedBackend(FakeBackend(), store="memory?entries=5", ttl=7.0)
    backend.score("q", ["q"])
    copy = pickle.loads(pickle.dumps(backend))

    assert (0, 0, 0) == counts(copy)
    assert 7.0 == copy.describe()["cache"]["ttl"]
    assert 0 == copy.describe()["cache"]["store"]["entries"]
    assert 5 == copy.describe()["cache"]["store"]["max_entries"]


class Written(FakeBackend):
    def to_spec(self):
        return {"kind": "embedded"}


def test_a_cache_is_written_as_its_table():
    spec = CachedBackend(Written(), store="memory?entries=5").to_spec()

    assert {"kind": "embedded"} == spec["backend"]
    assert "memory?entries=5" == spec["cache"]["store"]
    with pytest.raises(ConfigError, match="`MemoryStore` can't be written"):
        CachedBackend(Written(), store=MemoryStore()).to_spec()


def test_a_table_adds_a_cache():
    tables = {
        "backend": {"kind": "xinference", "base_url": "http://localhost:1", "model": "m"},
        "retry": {"attempts": 2},
        "cache": {"store": "memory?entries=5", "ttl": "none"},
    }
    backend = load_backend(tables)

    assert isinstance(backend, CachedBackend)  # outside: what is known is not retried
    assert isinstance(backend.wrapped, RetryingBackend)
    assert (5, None) == (backend._opened.describe()["max_entries"], backend._ttl)
    assert repr(backend) == repr(load_backend(backend.to_spec()))


def test_each_backend_of_a_chain_has_its_own_cache():
    chain = load_backend(
        {
            "backend": {"kind": "xinference", "base_url": "http://localhost:1", "model": "m"},
            "fallback": [{"kind": "embedded"}],
            "cache": {},
        }
    )

    assert 2 == repr(chain).count("CachedBackend")


def test_a_secret_in_a_table_is_refused():
    with pytest.raises(ConfigError, match="name that variable with `secret_env`"):
        load_backend({"backend": {"kind": "embedded"}, "cache": {"secret": "s3cret"}})


def test_closing_closes_the_store_and_the_backend():
    class Closing(MemoryStore):
        closed = 0

        def close(self):
            self.closed += 1

    wrapped, store = FakeBackend(), Closing()
    backend: Backend = CachedBackend(wrapped, store=store)
    backend.close()
    asyncio.run(backend.aclose())

    assert (2, 2) == (wrapped.closed, store.closed)
