"""The circuit breaker: when it opens, whom it lets through, when it closes."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerank_plugins import (
    AuthenticationError,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
    UnsupportedInputError,
)
from rerank_plugins._internal.circuit import CircuitBreaker
from rerank_plugins.hooks import BreakerChanged, CallStarted
from rerank_plugins.hooks._dispatch import observe_call
from rerank_plugins.testing import BackendContract, FakeBackend
from rerank_plugins.wrappers.breaker import CircuitBreakingBackend
from tests.support.asking import score

DOWN = BackendUnavailable("down")


class TestCircuitBreaking(BackendContract):
    def make_backend(self):
        return CircuitBreakingBackend(FakeBackend())


class Moody(FakeBackend):
    """Raises `error` while there is one."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error
        self.asked = 0

    def score(self, query, documents):
        self.asked += 1
        if self.error:
            raise self.error
        return super().score(query, documents)


class Blocking(FakeBackend):
    """Blocks until it is released."""

    def __init__(self):
        super().__init__()
        self.error = DOWN
        self.started = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.asked = 0

    def score(self, query, documents):
        self.asked += 1
        error = self.error
        self.started.set()
        assert self.go.wait(10)
        if error:
            raise error
        return super().score(query, documents)


@pytest.fixture
def clock(monkeypatch):
    """A list whose only item is the time."""
    now = [1000.0]
    monkeypatch.setitem(CircuitBreaker.__init__.__kwdefaults__, "clock", lambda: now[0])
    return now


def fail(backend, times=1, ask=score):
    for _ in range(times):
        with pytest.raises(BackendUnavailable, match="down"):
            ask(backend)


def test_consecutive_failures_open_the_circuit(clock, ask):
    wrapped = Moody(DOWN)
    backend = CircuitBreakingBackend(wrapped, failures=3, cooldown=10.0)
    fail(backend, 3, ask)
    clock[0] += 4.0

    with pytest.raises(BackendUnavailable, match="goes through in 6 s") as caught:
        ask(backend)
    assert 6.0 == caught.value.retry_after
    assert 3 == wrapped.asked


@pytest.mark.parametrize("error", [BackendTimeout("slow"), InvalidResponse("nonsense"), DOWN])
def test_faults_of_the_backend_count(clock, error):
    backend = CircuitBreakingBackend(Moody(error), failures=1)
    with pytest.raises(type(error)):
        score(backend)

    with pytest.raises(BackendUnavailable, match="goes through in"):
        score(backend)


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("key"),
        BackendRejected("too long"),
        ConfigError("c"),
        KeyError("bug"),
        KeyboardInterrupt(),
        UnsupportedInputError("u"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_count_neither_way(clock, error):
    wrapped = Moody(DOWN)
    backend = CircuitBreakingBackend(wrapped, failures=2)
    fail(backend)
    wrapped.error = error
    for _ in range(9):
        with pytest.raises(type(error)):
            score(backend)
    wrapped.error = DOWN
    fail(backend)

    with pytest.raises(BackendUnavailable, match="goes through in"):
        score(backend)


def test_a_success_resets_the_count(clock):
    wrapped = Moody(DOWN)
    backend = CircuitBreakingBackend(wrapped, failures=3)
    for _ in range(5):
        wrapped.error = DOWN
        fail(backend, 2)
        wrapped.error = None
        score(backend)

    assert 15 == wrapped.asked


def test_a_successful_probe_closes_the_circuit(clock):
    wrapped = Moody(DOWN)
    backend = CircuitBreakingBackend(wrapped, failures=2, cooldown=10.0)
    fail(backend, 2)
    clock[0] += 10.0
    wrapped.error = None

    assert [1.0, 0.0] == score(backend)
    wrapped.error = DOWN
    fail(backend, 2)  # the count began at zero


def test_a_failed_probe_begins_the_next_cooldown(clock):
    wrapped = Moody(DOWN)
    backend = CircuitBreakingBackend(wrapped, failures=3, cooldown=10.0)
    fail(backend, 3)
    clock[0] += 10.0
    fail(backend)

    with pytest.raises(BackendUnavailable) as caught:
        score(backend)
    assert 10.0 == caught.value.retry_after


def test_an_inconclusive_probe_allows_another_one(clock):
    wrapped = Moody(DOWN)
    backend = CircuitBreakingBackend(wrapped, failures=1, cooldown=10.0)
    fail(backend)
    clock[0] += 10.0
    wrapped.error = BackendRejected("too long")
    for _ in range(2):
        with pytest.raises(BackendRejected):
            score(backend)
    wrapped.error = None

    assert [1.0, 0.0] == score(backend)


def test_a_cancelled_probe_allows_another_one(clock):
    class Hanging(Moody):
        async def ascore(self, query, documents):
            await asyncio.sleep(60)

    wrapped = Hanging(DOWN)
    backend = CircuitBreakingBackend(wrapped, failures=1, cooldown=10.0)
    fail(backend)
    clock[0] += 10.0
    wrapped.error = None

    async def cancel():
        task = asyncio.create_task(backend.ascore("q", ["a"]))
        await asyncio.sleep(0.01)
        with pytest.raises(BackendUnavailable, match="one call is probing it"):
            await backend.ascore("q", ["a"])
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())
    assert [1.0, 0.0] == score(backend)


def test_an_interrupted_hook_allows_another_probe(clock):
    """Ctrl-C while a hook hears that the circuit is half-open."""

    def interrupt(event):
        if isinstance(event, BreakerChanged) and event.state == "half_open":
            raise KeyboardInterrupt

    wrapped = Moody(DOWN)
    backend = CircuitBreakingBackend(wrapped, failures=1, cooldown=10.0)
    fail(backend)
    clock[0] += 10.0
    wrapped.error = None
    with (
        observe_call((interrupt,), CallStarted("library", "", None, 1, 1)),
        pytest.raises(KeyboardInterrupt),
    ):
        score(backend)

    assert [1.0, 0.0] == score(backend)


def test_eight_threads_send_one_probe(clock):
    wrapped = Blocking()
    backend = CircuitBreakingBackend(wrapped, failures=1, cooldown=10.0)
    fail(backend)
    clock[0] += 10.0
    wrapped.asked, wrapped.error = 0, None
    wrapped.go.clear()
    wrapped.started.clear()
    with ThreadPoolExecutor(8) as pool:
        probe = pool.submit(score, backend)
        assert wrapped.started.wait(10)
        others = [pool.submit(score, backend) for _ in range(7)]
        refused = [other.exception(10) for other in others]
        wrapped.go.set()

        assert [1.0, 0.0] == probe.result(10)
    assert {BackendUnavailable} == {type(error) for error in refused}
    assert 1 == wrapped.asked
    assert [1.0, 0.0] == score(backend)


@pytest.mark.parametrize("late", [None, DOWN])
def test_the_result_of_an_older_call_is_ignored(clock, late):
    """It neither closes the circuit nor prolongs the cooldown."""
    wrapped = Blocking()
    wrapped.error = late
    wrapped.go.clear()
    backend = CircuitBreakingBackend(wrapped, failures=1, cooldown=10.0)
    with ThreadPoolExecutor(1) as pool:
        older = pool.submit(score, backend)
        assert wrapped.started.wait(10)
        backend._circuit.enter().fail()
        clock[0] += 5.0
        wrapped.go.set()
        assert late is older.exception(10)

    with pytest.raises(BackendUnavailable) as caught:
        score(backend)
    assert 5.0 == caught.value.retry_after


def test_threads_count_together(clock):
    """Eight threads fail 400 times: exactly the first ones reach the backend."""
    wrapped = Blocking()
    backend = CircuitBreakingBackend(wrapped, failures=100, cooldown=10.0)

    def ask(_):
        with pytest.raises(BackendUnavailable):
            score(backend)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(400)))
    assert 100 <= wrapped.asked <= 107  # those under way when it opened


def test_copies_have_a_circuit_of_their_own(clock):
    backend = CircuitBreakingBackend(Moody(), failures=7, cooldown=3.0)
    make, arguments = backend.__reduce__()
    copy = make(*arguments)

    assert backend._circuit is not copy._circuit
    assert {"failures": 7, "cooldown": 3.0} == copy.describe()["breaker"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"failures": 0}, "`failures` must be an integer of at least 1, not 0"),
        ({"cooldown": 0.0}, "`cooldown` must be a number of seconds above 0, not 0.0"),
        ({"cooldown": float("nan")}, "`cooldown`"),
    ],
)
def test_wrong_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        CircuitBreakingBackend(FakeBackend(), **option)
