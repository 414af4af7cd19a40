"""Retries: which errors, when, how often, and what the caller's error says."""

import asyncio
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import (
    AuthenticationError,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
    UnsupportedInputError,
)
from rerank_plugins._internal import context as _context
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.testing import BackendContract, FakeBackend, FakeResponse, FakeServer, silence
from rerank_plugins.wrappers import retry
from rerank_plugins.wrappers.base import Call, Sleep
from rerank_plugins.wrappers.retry import MAX_RETRY_AFTER, RetryingBackend
from tests.support.asking import score

REQUESTS = [("q", ["q", "r"])]
DOWN = BackendUnavailable("down")
WRONG = InvalidResponse("wrong")


class TestRetrying(BackendContract):
    def make_backend(self):
        return RetryingBackend(FakeBackend())


class Scripted(FakeBackend):
    """Raises the errors of a script, then scores."""

    def __init__(self, *script):
        super().__init__()
        self.script = list(script)
        self.asked = 0

    def score(self, query, documents):
        self.asked += 1
        if self.script and (error := self.script.pop(0)):
            raise error
        return super().score(query, documents)


class World:
    """Drives a flow by hand, on a clock that moves only when somebody waits or works."""

    def __init__(self, monkeypatch, work=0.0):
        self.now = 1000.0
        self.work = work
        self.slept = []
        self.calls = 0
        monkeypatch.setattr(retry, "monotonic", lambda: self.now)

    def run(self, backend, requests=REQUESTS):
        flow = backend.flow(requests)
        proceed, value = flow.send, None
        while True:
            try:
                step = proceed(value)
            except StopIteration as stop:
                return stop.value
            proceed, value = flow.send, None
            if isinstance(step, Sleep):
                self.slept.append(step.seconds)
                self.now += step.seconds
                continue
            assert isinstance(step, Call)
            self.calls += 1
            self.now = min(self.now + self.work, _context.deadline())
            try:
                value = step.backend.score_many(step.requests)
            except Exception as error:  # noqa: BLE001  # the flow decides
                proceed, value = flow.throw, error


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_an_unavailable_backend_is_retried(ask):
    wrapped = Scripted(DOWN, BackendTimeout("slow"))
    backend = RetryingBackend(wrapped, initial_backoff=0.0)

    assert [1.0, 0.0] == ask(backend)
    assert 3 == wrapped.asked


def test_the_last_error_is_raised_with_the_number_of_attempts(ask):
    last = BackendOverloaded("busy")
    wrapped = Scripted(DOWN, DOWN, last)
    with pytest.raises(BackendOverloaded) as caught:
        ask(RetryingBackend(wrapped, initial_backoff=0.0))

    assert last is caught.value
    assert ["attempt 3 of 3; it was the last"] == last.__notes__


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("key", status_code=401),
        BackendError("broken"),
        BackendRejected("no", status_code=422),
        ConfigError("c"),
        UnsupportedInputError("u"),
        KeyError("bug"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_would_recur_are_not_retried(error):
    wrapped = Scripted(error)
    with pytest.raises(type(error)):
        score(RetryingBackend(wrapped))

    assert 1 == wrapped.asked


def test_an_invalid_response_is_retried_once():
    wrapped = Scripted(WRONG, DOWN, WRONG)
    with pytest.raises(InvalidResponse) as caught:
        score(RetryingBackend(wrapped, attempts=9, initial_backoff=0.0))

    assert 3 == wrapped.asked
    assert "attempt 3 of 9; a second invalid response" in caught.value.__notes__[-1]


def test_backoff_doubles_with_full_jitter(world, monkeypatch):
    """Full jitter: from nothing to the whole back-off."""
    bounds = []
    monkeypatch.setattr(retry, "uniform", lambda low, high: bounds.append((low, high)) or high)
    backend = RetryingBackend(Scripted(*[DOWN] * 5), attempts=6, longest_backoff=0.5)
    world.run(backend)

    assert [(0.0, 0.1), (0.0, 0.2), (0.0, 0.4), (0.0, 0.5), (0.0, 0.5)] == bounds
    assert [0.1, 0.2, 0.4, 0.5, 0.5] == world.slept


@pytest.mark.parametrize(("asked", "minimum"), [(None, 0.0), (0.0, 0.0), (3.0, 3.0)])
def test_retry_after_is_honoured(world, asked, minimum):
    busy = BackendOverloaded("busy", retry_after=asked)
    world.run(RetryingBackend(Scripted(busy)))

    assert 1 == len(world.slept)
    assert minimum <= world.slept[0] <= minimum + 0.1


def test_a_very_long_retry_after_is_capped(world):
    year = BackendOverloaded("busy", retry_after=365 * 86_400.0)
    world.run(RetryingBackend(Scripted(year), deadline=60.0))

    assert MAX_RETRY_AFTER <= world.slept[0] <= MAX_RETRY_AFTER + 0.1


def test_a_wait_beyond_the_deadline_is_raised_at_once(world):
    """The caller learns how long it would take."""
    wrapped = Scripted(BackendOverloaded("busy", retry_after=20.0))
    with pytest.raises(BackendOverloaded) as caught:
        world.run(RetryingBackend(wrapped))

    assert [] == world.slept
    assert 20.0 == caught.value.retry_after
    assert "the next is due in 20" in caught.value.__notes__[0]


def test_all_attempts_share_one_deadline(monkeypatch):
    world = World(monkeypatch, work=4.0)
    with pytest.raises(BackendUnavailable):
        world.run(RetryingBackend(Scripted(*[DOWN] * 9), attempts=9, deadline=10.0))

    assert 3 == world.calls
    assert world.now <= 1010.0


def test_an_attempt_gets_the_remaining_time_as_its_deadline(world):
    """Remote backends end their call by then."""
    ends = []

    class Listening(Scripted):
        def score(self, query, documents):
            ends.append(_context.deadline())
            return super().score(query, documents)

    world.run(RetryingBackend(Listening(DOWN), deadline=7.0))

    assert [1007.0, 1007.0] == ends
    assert float("inf") == _context.deadline()


def test_an_outer_deadline_wins(world):
    backend = RetryingBackend(Scripted(BackendUnavailable("down", retry_after=3.0)))
    with _context.until(1002.0), pytest.raises(BackendUnavailable):
        world.run(backend)

    assert [] == world.slept


def test_each_of_many_requests_has_its_own_attempts():
    asked = Counter()

    class DownTwice(FakeBackend):
        def score(self, query, documents):
            asked[query] += 1
            if asked[query] < 3:
                raise DOWN
            return [float(asked[query]) for _ in documents]

    backend = RetryingBackend(DownTwice(), initial_backoff=0.0)

    assert [[3.0], [3.0, 3.0]] == backend.score_many([("a", ["x"]), ("b", ["y", "z"])])


def test_many_requests_are_sent_concurrently():
    all_here = threading.Barrier(4)

    class Together(FakeBackend):
        def score(self, query, documents):
            all_here.wait(30.0)
            return [float(query) for _ in documents]

    scores = RetryingBackend(Together()).score_many([(str(one), ["x"]) for one in range(8)])

    assert [[float(one)] for one in range(8)] == scores


def test_of_many_requests_the_first_error_is_raised():
    class Picky(FakeBackend):
        def score(self, query, documents):
            if query == "bad":
                raise BackendRejected("no")
            return super().score(query, documents)

    with pytest.raises(BackendRejected):
        RetryingBackend(Picky()).score_many([("q", ["x"]), ("bad", ["x"]), ("q", ["y"])])


def test_the_budget_ends_retries_when_most_calls_fail(world):
    """100 calls that fail cost 100 attempts, and 10 percent, and the reserve of ten."""
    wrapped = Scripted(*[DOWN] * 1000)
    backend = RetryingBackend(wrapped)
    notes = set()
    for _ in range(100):
        with pytest.raises(BackendUnavailable) as caught:
            world.run(backend)
        notes.add(caught.value.__notes__[-1])

    assert 100 + 10 + 10 == wrapped.asked
    assert "attempt 1 of 3; the retry budget is used up: too many calls fail" in notes


def test_the_budget_refills_with_calls(world):
    wrapped = Scripted(*[DOWN] * 15)
    backend = RetryingBackend(wrapped, attempts=11, budget=0.5)
    with pytest.raises(BackendUnavailable, match="down"):
        world.run(backend)
    with pytest.raises(BackendUnavailable, match="down"):
        world.run(backend)  # half a retry
    wrapped.script.clear()
    world.run(backend)
    wrapped.script.append(DOWN)

    assert [[1.0, 0.0]] == world.run(backend)


@given(
    calls=st.integers(0, 200),
    per_call=st.floats(0.01, 1.0),
)
def test_retries_never_exceed_the_budget(calls, per_call):
    budget = retry._Budget(per_call)
    spent = 0
    for _ in range(calls):
        budget.earn()
        while budget.spend():
            spent += 1

    assert spent <= 10 + calls * per_call + 1e-6


def test_threads_share_the_budget():
    budget = retry._Budget(0.1)
    start = threading.Barrier(8)

    def spend(_):
        start.wait()
        return sum(budget.spend() for _ in range(100))

    with ThreadPoolExecutor(8) as pool:
        assert 10 == sum(pool.map(spend, range(8)))


FAULTS = st.sampled_from(
    [
        None,
        DOWN,
        WRONG,
        BackendTimeout("slow"),
        BackendOverloaded("busy", retry_after=2.0),
        BackendOverloaded("busy", retry_after=1e9),
        BackendRejected("no"),
        BackendError("broken"),
    ]
)


@given(script=st.lists(FAULTS, max_size=8), attempts=st.integers(1, 5), work=st.floats(0, 5))
def test_every_outcome_is_all_scores_or_one_error(script, attempts, work):
    """And never more attempts, nor more time, than allowed."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(patch, work)
        wrapped = Scripted(*script)
        try:
            outcome = world.run(RetryingBackend(wrapped, attempts=attempts, deadline=10.0))
        except BackendError as error:
            outcome = error
    expected = [*script, None][: wrapped.asked][-1]

    assert outcome is expected if expected else outcome == [[1.0, 0.0]]
    assert wrapped.asked <= attempts
    assert world.now <= 1010.0 + 1e-6


def test_a_cancelled_wait_ends_the_retries():
    wrapped = Scripted(*[DOWN] * 9)
    backend = RetryingBackend(wrapped, initial_backoff=60.0, longest_backoff=60.0, deadline=999.0)

    async def cancel():
        task = asyncio.create_task(backend.ascore("q", ["a"]))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())
    assert 1 == wrapped.asked


def test_a_thousand_tasks_share_a_backend():
    calls = itertools.count()

    def flaky(query, document):
        if next(calls) % 50 == 0:
            raise DOWN
        return 0.5

    async def gather():
        return await asyncio.gather(*(backend.ascore("q", ["a"]) for _ in range(1000)))

    backend = RetryingBackend(FakeBackend(flaky), initial_backoff=0.0, deadline=60.0)

    assert [[0.5]] * 1000 == asyncio.run(gather())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"attempts": 0}, "`attempts` must be an integer of at least 1, not 0"),
        ({"attempts": 1.5}, "`attempts`"),
        ({"deadline": 0}, "`deadline` must be a number of seconds above 0, not 0"),
        ({"deadline": float("nan")}, "`deadline`"),
        ({"initial_backoff": -1.0}, "`initial_backoff` must be a number of seconds of at least 0"),
        ({"longest_backoff": float("inf")}, "`longest_backoff`"),
        ({"budget": -0.1}, "`budget`"),
    ],
)
def test_wrong_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        RetryingBackend(FakeBackend(), **option)


# On a real server


GOOD = FakeResponse([{"index": 0, "score": 0.9}, {"index": 1, "score": 0.1}])


def in_turn(*answers):
    turns = itertools.chain(answers, itertools.repeat(answers[-1]))
    return lambda received: next(turns)


@pytest.mark.parametrize(
    "answer",
    [
        FakeResponse({"error": "busy"}, 429),
        FakeResponse({"error": "busy"}, 429, {"Retry-After": "0.01"}),
        FakeResponse({"error": "busy"}, 503, {"Retry-After": "soon"}),
        FakeResponse({"error": "busy"}, 503, {"Retry-After": "-5"}),
        FakeResponse({"error": "busy"}, 503, {"Retry-After": "Mon, 01 Jan 2001 00:00:00 GMT"}),
        FakeResponse({"error": "broken"}, 500),
        FakeResponse([{"index": 0, "score": 0.9}]),
        FakeResponse(b"<html>"),
    ],
    ids=str,
)
def test_a_temporarily_failing_server_is_retried(ask, answer):
    with FakeServer(in_turn(answer, GOOD)) as fake_server:
        remote = HTTPBackend(fake_server.url, dialect="tei")
        with RetryingBackend(remote, initial_backoff=0.01) as backend:
            assert [0.9, 0.1] == ask(backend)
        assert 2 == len(fake_server.requests)


@pytest.mark.parametrize("wait", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_retry_after_beyond_the_deadline_is_not_waited_for(ask, wait):
    with FakeServer(FakeResponse({"error": "busy"}, 429, {"Retry-After": wait})) as fake_server:
        backend = RetryingBackend(HTTPBackend(fake_server.url, dialect="tei"))
        with pytest.raises(BackendOverloaded) as caught:
            ask(backend)
        backend.close()

        assert caught.value.retry_after > 3000
        assert 1 == len(fake_server.requests)


def test_the_deadline_ends_an_attempt(ask):
    """Long before its own timeout, which would be the end of this test as well."""

    with FakeServer(silence) as fake_server:
        remote = HTTPBackend(fake_server.url, dialect="tei", timeout=1000.0)
        with pytest.raises(BackendTimeout), RetryingBackend(remote, deadline=0.2) as backend:
            ask(backend)


def test_time_is_measured_by_the_monotonic_clock():
    assert retry.monotonic is time.monotonic
