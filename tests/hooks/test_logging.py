"""Events as log lines."""

import logging
import pickle

import pytest

from rerank_plugins import BackendOverloaded, BackendUnavailable, ConfigError
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.hooks import open_hook
from rerank_plugins.hooks.logging import LoggingHook
from rerank_plugins.testing import FailingBackend, FakeBackend, FakeResponse
from rerank_plugins.wrappers.breaker import CircuitBreakingBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.instrument import InstrumentedBackend
from rerank_plugins.wrappers.retry import RetryingBackend


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.DEBUG, "rerank_plugins.calls")
    return lambda: [
        (record.levelname, record.rerank["event"])
        for record in caplog.records
        if record.name == "rerank_plugins.calls"
    ]


def test_a_call_is_one_line_of_facts(logged, caplog, ask):
    ask(InstrumentedBackend(FakeBackend(), hooks=["logging"]))

    assert [("DEBUG", "call")] == logged()
    message = caplog.records[0].getMessage()
    start = "call route=library kind=fake queries=1 documents=2 outcome=ok seconds="
    assert message.startswith(start)
    assert "ok" == caplog.records[0].rerank["outcome"]


def test_a_slow_call_is_a_warning(logged, ask):
    ask(InstrumentedBackend(FakeBackend(), hooks=["logging?slow=0"]))

    assert [("WARNING", "call")] == logged()


def test_failures_are_warnings_and_retries_are_not(logged, fake_server):
    fake_server.response = FakeResponse({"error": "busy"}, 429)
    server = HTTPBackend(fake_server.url, dialect="tei")
    careful = CircuitBreakingBackend(
        RetryingBackend(server, attempts=2, initial_backoff=0.0), failures=1
    )
    chain = FallbackBackend([careful, FailingBackend(BackendUnavailable("down"))])
    backend = InstrumentedBackend(chain, hooks=["logging"])
    with backend, pytest.raises(BackendUnavailable):
        backend.score("q", ["a"])

    assert [
        ("INFO", "breaker"),
        ("WARNING", "attempt"),
        ("INFO", "retry"),
        ("WARNING", "attempt"),
        ("WARNING", "breaker"),
        ("WARNING", "fallback"),
        ("WARNING", "call"),
    ] == logged()


def test_nothing_is_formatted_when_the_log_level_is_off(caplog):
    caplog.set_level(logging.WARNING, "rerank_plugins.calls")
    InstrumentedBackend(FakeBackend(), hooks=["logging"]).score("q", ["a"])

    assert [] == caplog.records


@pytest.mark.parametrize("slow", [-1, "fast", float("nan")])
def test_a_wrong_limit_is_refused(slow):
    with pytest.raises(ConfigError, match="slow"):
        LoggingHook(slow=slow)


def test_it_pickles_with_its_options():
    assert 0.5 == pickle.loads(pickle.dumps(open_hook("logging?slow=0.5")))._slow


def test_a_rejected_key_is_not_logged(logged, caplog, fake_server, monkeypatch):
    monkeypatch.setenv("TEI_API_KEY", "sk-secret")
    fake_server.response = FakeResponse({"error": "busy sk-secret"}, 429)
    backend = InstrumentedBackend(HTTPBackend(fake_server.url, dialect="tei"), hooks=["logging"])
    with backend, pytest.raises(BackendOverloaded):
        backend.score("secret text", ["a"])

    assert logged()
    assert "secret" not in caplog.text
