"""The events that hooks receive, and that hooks can't harm a call."""

import asyncio
import copy
import gc
import logging
import math
import pickle
import threading
from dataclasses import dataclass

import pytest

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
    load_backend,
)
from rerank_plugins._adapter import reranking
from rerank_plugins._internal import context as _context
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.hooks import (
    AttemptFinished,
    AttemptStarted,
    BreakerChanged,
    CacheLookedUp,
    CallFinished,
    CallStarted,
    FellBack,
    Retried,
    Split,
    Truncated,
    outcome_of,
)
from rerank_plugins.hooks import _dispatch as telling
from rerank_plugins.testing import (
    BackendContract,
    FailingBackend,
    FakeBackend,
    FakeResponse,
    FakeServer,
    serve_dialect,
)
from rerank_plugins.wrappers.breaker import CircuitBreakingBackend
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.instrument import InstrumentedBackend
from rerank_plugins.wrappers.retry import RetryingBackend

DOWN = BackendUnavailable("down")


class Ears:
    """Records its events."""

    def __init__(self):
        self.events = []

    def __call__(self, event):
        self.events.append(event)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def instrumented(backend, *hooks, **options):
    return InstrumentedBackend(backend, hooks=list(hooks), **options)


class TestInstrumented(BackendContract):
    def make_backend(self):
        return instrumented(FakeBackend(), Ears())


def test_a_call_has_a_start_and_an_end_event(ask):
    ears = Ears()

    assert [1.0, 0.0] == ask(instrumented(FakeBackend(), ears, route="search"))
    started, finished = ears.events
    assert ("search", "fake", None, 1, 2) == (
        started.route,
        started.kind,
        started.model,
        started.queries,
        started.documents,
    )
    assert started is finished.started
    assert ("ok", None) == (finished.outcome, finished.scored_by)
    assert 0 <= finished.seconds < 10


def test_kind_and_model_are_those_of_the_configuration(fake_server):
    fake_server.response = serve_dialect("vllm")
    backend = HTTPBackend(fake_server.url, dialect="vllm", model="bge")
    ears = Ears()
    with instrumented(RetryingBackend(backend), ears) as outer:
        outer.score_many([("q", ["a"]), ("q", ["b", "c"])])

    (started,) = ears.of(CallStarted)
    assert ("vllm", "bge", 2, 3) == (
        started.kind,
        started.model,
        started.queries,
        started.documents,
    )


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (BackendTimeout("x"), "timeout"),
        (BackendOverloaded("x"), "overloaded"),
        (BackendUnavailable("x"), "unavailable"),
        (BackendRejected("x"), "rejected"),
        (AuthenticationError("x"), "authentication"),
        (InvalidResponse("x"), "invalid_response"),
        (BackendError("x"), "backend_error"),
        (UnsupportedInputError("x"), "unsupported_input"),
        (ConfigError("x"), "config"),
        (ZeroDivisionError("x"), "error"),
    ],
)
def test_a_failure_is_reported_and_raised(ask, error, word):
    ears = Ears()

    with pytest.raises(type(error)):
        ask(instrumented(FailingBackend(error), ears))

    assert word == ears.of(CallFinished)[0].outcome
    assert word == outcome_of(error)


def test_a_cancelled_call_is_reported():
    ears = Ears()

    class Slow(FakeBackend):
        async def ascore(self, query, documents):
            await asyncio.sleep(60)

    async def cancel():
        task = asyncio.create_task(instrumented(Slow(), ears).ascore("q", ["a"]))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())
    assert ["cancelled"] == [event.outcome for event in ears.of(CallFinished)]


def test_a_call_abandoned_with_its_event_loop_is_reported():
    """Nobody cancels it; Python ends it some day, in another context."""
    ears = Ears()

    class Hanging(FakeBackend):
        async def ascore(self, query, documents):
            with _context.until(math.inf):
                await asyncio.Event().wait()

    async def leave():
        task = asyncio.create_task(instrumented(Hanging(), ears).ascore("q", ["a"]))
        task._log_destroy_pending = False  # we know
        await asyncio.sleep(0.01)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    gc.collect()

    assert ["cancelled"] == [event.outcome for event in ears.of(CallFinished)]


def test_a_request_to_a_server_is_an_attempt(fake_server, ask):
    ears = Ears()
    ask(instrumented(HTTPBackend(fake_server.url, dialect="tei"), ears))

    started, finished = ears.events[1:-1]
    assert isinstance(started, AttemptStarted)
    assert (fake_server.url.removeprefix("http://"), 2) == (started.endpoint, started.documents)
    assert started is finished.started
    assert ("ok", 200) == (finished.outcome, finished.status_code)


def test_a_failed_attempt_says_how_it_failed(fake_server, ask):
    fake_server.response = FakeResponse({"error": "busy"}, 429)
    ears = Ears()
    with pytest.raises(BackendOverloaded):
        ask(instrumented(HTTPBackend(fake_server.url, dialect="tei"), ears))

    (finished,) = ears.of(AttemptFinished)
    assert ("overloaded", 429) == (finished.outcome, finished.status_code)


def test_attempts_of_all_parts_are_reported_from_any_thread_or_task(fake_server, ask):
    ears = Ears()
    ask(instrumented(HTTPBackend(fake_server.url, dialect="tei"), ears), ["hi"] * 70)

    assert [6, 32, 32] == sorted(e.started.documents for e in ears.of(AttemptFinished))
    assert [(70, 3)] == [(event.documents, event.parts) for event in ears.of(Split)]


def test_attempts_of_score_many_are_reported(fake_server):
    ears = Ears()
    with instrumented(HTTPBackend(fake_server.url, dialect="tei"), ears) as backend:
        backend.score_many([(f"q{number}", ["a"]) for number in range(6)])

    assert 6 == len(ears.of(AttemptFinished))


def test_truncated_documents_are_reported():
    ears = Ears()
    with FakeServer(serve_dialect("infinity")) as fake_server:
        instrumented(HTTPBackend(fake_server.url, dialect="infinity"), ears).score(
            "q", ["a" * 130_000, "b"]
        )

    assert [Truncated(1)] == ears.of(Truncated)


def test_headers_of_hooks_are_sent_and_do_not_replace_ours(fake_server, monkeypatch):
    monkeypatch.setenv("TEI_API_KEY", "k")

    def hook(event):
        if isinstance(event, AttemptStarted):
            event.headers["traceparent"] = "00-1-2-01"
            event.headers["authorization"] = "Bearer stolen"

    with instrumented(HTTPBackend(fake_server.url, dialect="tei"), hook) as backend:
        backend.score("q", ["a"])

    headers = fake_server.requests[0].headers
    assert ("00-1-2-01", "Bearer k") == (headers["traceparent"], headers["Authorization"])


def test_retries_are_reported(ask):
    ears = Ears()
    backend = RetryingBackend(FailingBackend(DOWN), attempts=3, initial_backoff=0.0)
    with pytest.raises(BackendUnavailable):
        ask(instrumented(backend, ears))

    assert [Retried(1, "unavailable", 0.0), Retried(2, "unavailable", 0.0)] == ears.of(Retried)


def test_fallbacks_and_the_backend_that_scored_are_reported(ask):
    ears = Ears()
    chain = FallbackBackend([FailingBackend(DOWN), FakeBackend(name="second")])
    ask(instrumented(chain, ears))

    assert [FellBack("unavailable", "backend")] == ears.of(FellBack)
    assert "second" == ears.of(CallFinished)[0].scored_by


def test_state_changes_of_a_breaker_are_reported(ask):
    ears = Ears()
    wrapped = FakeBackend()
    wrapped.score = FailingBackend(DOWN).score
    backend = instrumented(CircuitBreakingBackend(wrapped, failures=2, cooldown=0.5), ears)
    for _ in range(2):
        with pytest.raises(BackendUnavailable):
            ask(backend)
    with pytest.raises(BackendUnavailable, match="goes through in"):
        ask(backend)
    del wrapped.score
    threading.Event().wait(0.6)
    ask(backend)

    states = ["closed", "open", "half_open", "closed"]
    assert states == [event.state for event in ears.of(BreakerChanged)]
    assert {"fake"} == {event.endpoint for event in ears.of(BreakerChanged)}


def test_cache_lookups_are_reported(ask):
    ears = Ears()
    backend = instrumented(CachedBackend(FakeBackend()), ears)
    ask(backend)
    ask(backend, ["q", "new"])

    looked_up = [CacheLookedUp("memory", "miss", 2), CacheLookedUp("memory", "hit", 1)]
    assert [*looked_up, CacheLookedUp("memory", "miss", 1)] == ears.of(CacheLookedUp)


def test_a_lost_ranking_is_reported_to_the_hooks_of_its_backend():
    ears = Ears()
    backend = instrumented(FailingBackend(BackendTimeout("late")), ears)
    with reranking(backend, 1, on_error="original_order") as outcome:
        outcome.scores = backend.score("q", ["a"])

    assert FellBack("timeout", "original_order") == ears.events[-1]


def test_events_hold_no_text(fake_server, ask):
    ears = Ears()
    chain = FallbackBackend(
        [
            RetryingBackend(FailingBackend(BackendUnavailable("secret")), initial_backoff=0.0),
            CachedBackend(HTTPBackend(fake_server.url, dialect="tei")),
        ]
    )
    ask(instrumented(chain, ears), ["secret document"])

    assert "secret" not in repr(ears.events)


def test_a_failing_hook_fails_no_call(ask, caplog, monkeypatch):
    monkeypatch.setattr(telling, "_may_warn", lambda: True)
    ears = Ears()

    def broken(event):
        raise ZeroDivisionError("secret")

    with caplog.at_level(logging.WARNING):
        assert [1.0, 0.0] == ask(instrumented(FakeBackend(), broken, ears))

    assert [CallStarted, CallFinished] == [type(event) for event in ears.events]
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text


def test_a_hook_of_two_nested_backends_receives_an_attempt_once(fake_server, ask):
    ears = Ears()
    inner = instrumented(HTTPBackend(fake_server.url, dialect="tei"), ears, route="inner")
    ask(instrumented(inner, ears, route="outer"))

    assert ["outer", "inner"] == [event.route for event in ears.of(CallStarted)]
    assert 1 == len(ears.of(AttemptFinished))


def test_equal_unhashable_hooks_each_receive_the_events(ask):
    """As dataclasses can't, and those that are equal now are still two."""

    @dataclass
    class Counts:
        events: int = 0

        def __call__(self, event):
            self.events += 1

    one, other = Counts(), Counts()

    assert [1.0, 0.0] == ask(instrumented(FakeBackend(), one, other, one))
    assert (2, 2) == (one.events, other.events)


def test_concurrent_calls_report_to_their_own_hooks_only(fake_server):
    """Tasks and threads tell only their own backend's hooks."""
    many = [Ears() for _ in range(8)]
    backend = HTTPBackend(fake_server.url, dialect="tei")

    async def in_tasks():
        calls = [instrumented(backend, ears).ascore("q", ["a"] * 40) for ears in many]
        await asyncio.gather(*calls)

    asyncio.run(in_tasks())
    threads = [
        threading.Thread(target=instrumented(backend, ears).score, args=("q", ["a"] * 40))
        for ears in many
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backend.close()

    assert [4] * 8 == [len(ears.of(AttemptFinished)) for ears in many]


async def later(event):
    """An async hook, whose coroutine nobody would await."""


class Later:
    async def __call__(self, event):
        """Another one."""


@pytest.mark.parametrize(
    "hooks",
    [
        *("prometheus", [], [3], None, ["statsd"], ["prometheus?registry=mine"]),
        *([Ears], [later], [Later()]),
    ],
)
def test_wrong_hooks_are_refused(hooks):
    with pytest.raises(ConfigError, match="hook"):
        InstrumentedBackend(FakeBackend(), hooks=hooks)


def test_a_table_adds_hooks_outermost():
    tables = {
        "backend": {"kind": "tei", "base_url": "http://h"},
        "fallback": [{"kind": "embedded"}],
        "instrument": {"hooks": ["logging?slow=0.5", "logging"], "route": "search"},
    }
    backend = load_backend(tables)

    assert isinstance(backend, InstrumentedBackend)
    assert isinstance(backend.wrapped, FallbackBackend)
    assert tables == backend.to_spec()
    assert tables["instrument"] == backend.describe()["instrument"]
    assert tables == pickle.loads(pickle.dumps(backend)).to_spec()
    assert tables == copy.deepcopy(backend).to_spec()


def test_a_backend_with_hook_objects_has_no_spec():
    with pytest.raises(ConfigError, match="Ears"):
        instrumented(load_backend("embedded"), Ears()).to_spec()


def test_an_empty_route_is_refused():
    with pytest.raises(ConfigError, match="route"):
        instrumented(FakeBackend(), Ears(), route="")
