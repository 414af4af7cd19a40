"""Events as metrics, read from what a scrape would get."""

import pickle
import re
import subprocess
import sys

import pytest

from rerank_plugins import BackendUnavailable, ConfigError, MissingDependencyError
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.hooks import AttemptFinished, AttemptStarted, open_hook
from rerank_plugins.testing import FailingBackend, FakeBackend, FakeResponse
from rerank_plugins.wrappers.breaker import CircuitBreakingBackend
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.instrument import InstrumentedBackend
from rerank_plugins.wrappers.retry import RetryingBackend
from tests.support.places import ROOT

prometheus_client = pytest.importorskip("prometheus_client", reason="needs the extra `prometheus`")

from rerank_plugins.hooks.prometheus import PrometheusHook  # noqa: E402  # after the skip


@pytest.fixture
def registry():
    return prometheus_client.CollectorRegistry()


@pytest.fixture
def value(registry):
    """Read one sample; None if there is none."""
    return lambda name, **labels: registry.get_sample_value(name, labels)


def instrumented(backend, registry, **options):
    return InstrumentedBackend(backend, hooks=[PrometheusHook(registry=registry)], **options)


def test_calls_are_counted_by_route_and_outcome(registry, value, ask):
    ask(instrumented(FakeBackend(), registry, route="search"))
    with pytest.raises(BackendUnavailable):
        ask(instrumented(FailingBackend(BackendUnavailable("down")), registry))

    assert 1 == value("rerank_requests_total", route="search", outcome="ok")
    assert 1 == value("rerank_requests_total", route="library", outcome="unavailable")
    assert 2 == value("rerank_pairs_total")
    assert 1 == value("rerank_request_duration_seconds_count", route="search")


def test_durations_have_the_promised_buckets(registry, value):
    instrumented(FakeBackend(), registry).score("q", ["a"])
    uppers = {
        sample.labels["le"]
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "rerank_request_duration_seconds_bucket"
    }

    expected = "0.005 0.01 0.02 0.03 0.05 0.08 0.1 0.15 0.2 0.3 0.5 0.75 1.0 2.0 5.0 10.0 +Inf"
    assert set(expected.split()) == uppers


def test_attempts_and_retries_are_counted_exactly(registry, value, fake_server, ask):
    answers = iter([FakeResponse({"error": "busy"}, 429), FakeResponse({"error": "broken"}, 500)])
    good = fake_server.response
    fake_server.response = lambda received: next(answers, None) or good(received)
    server = RetryingBackend(HTTPBackend(fake_server.url, dialect="tei"), initial_backoff=0.0)
    ask(instrumented(server, registry))

    host = fake_server.url.removeprefix("http://")
    for outcome in ("overloaded", "unavailable", "ok"):
        assert 1 == value("rerank_client_attempts_total", endpoint=host, outcome=outcome)
        if outcome != "ok":
            assert 1 == value("rerank_client_retries_total", reason=outcome)
    assert 3 == value("rerank_client_attempt_duration_seconds_count", endpoint=host)


def test_fallbacks_breakers_and_caches_are_measured(registry, value, ask):
    broken = CircuitBreakingBackend(FailingBackend(BackendUnavailable("down")), failures=1)
    backend = instrumented(FallbackBackend([broken, CachedBackend(FakeBackend())]), registry)
    ask(backend)
    ask(backend)

    assert 2 == value("rerank_fallback_total", reason="unavailable")
    assert 2 == value("rerank_breaker_state", endpoint="failing")
    assert 2 == value("rerank_cache_lookups_total", tier="memory", result="miss")
    assert 2 == value("rerank_cache_lookups_total", tier="memory", result="hit")


def test_hooks_with_one_registry_share_its_metrics(registry, value):
    inner = instrumented(FakeBackend(), registry, route="inner")
    instrumented(inner, registry, route="outer").score("q", ["a"])

    assert 1 == value("rerank_requests_total", route="inner", outcome="ok")
    assert 1 == value("rerank_requests_total", route="outer", outcome="ok")
    assert PrometheusHook(registry=registry) == PrometheusHook(registry=registry)


def test_labels_have_a_bounded_number_of_values(registry):
    hook = PrometheusHook(registry=registry)
    for number in range(500):
        hook(AttemptFinished(AttemptStarted(f"host{number}:1", 1), "ok", 0.1, 200))
    endpoints = {
        sample.labels["endpoint"]
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "rerank_client_attempts_total"
    }

    assert 101 == len(endpoints)
    assert 400 == registry.get_sample_value(
        "rerank_client_attempts_total", {"endpoint": "other", "outcome": "ok"}
    )


def test_the_default_registry_is_the_librarys(monkeypatch):
    hook = open_hook("prometheus")

    assert prometheus_client.REGISTRY is hook._registry
    assert hook == pickle.loads(pickle.dumps(hook))


def test_a_hook_with_its_own_registry_cant_be_pickled(registry):
    with pytest.raises(ConfigError, match="registry"):
        pickle.dumps(PrometheusHook(registry=registry))


def test_the_page_lists_exactly_the_metrics_there_are(registry):
    PrometheusHook(registry=registry)
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    own, _, _ = page.partition("### Of the server")
    listed = set(re.findall(r"^\| `(rerank_\w+)` \| (\w+) ", own, re.MULTILINE))
    metrics = {
        (metric.name + ("_total" if metric.type == "counter" else ""), metric.type)
        for metric in registry.collect()
    }

    assert metrics == listed


def test_without_the_library_the_extra_is_named():
    code = """
import sys
sys.modules["prometheus_client"] = None
from rerank_plugins.hooks import open_hook
from rerank_plugins import MissingDependencyError
try:
    open_hook("prometheus")
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert issubclass(MissingDependencyError, ImportError)
    assert "rerank-plugins[prometheus]" in done.stdout
