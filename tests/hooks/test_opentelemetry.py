"""Events as spans, as the SDK would export them."""

import pickle

import pytest

from rerank_plugins import BackendOverloaded, BackendUnavailable, ConfigError
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.hooks import open_hook
from rerank_plugins.testing import FailingBackend, FakeBackend, FakeResponse, serve_dialect
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.instrument import InstrumentedBackend
from rerank_plugins.wrappers.retry import RetryingBackend

pytest.importorskip("opentelemetry.sdk", reason="needs OpenTelemetry's SDK")

from opentelemetry.sdk.trace import TracerProvider  # after the skip
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # after the skip
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # the same
    InMemorySpanExporter,
)

from rerank_plugins.hooks.opentelemetry import OpenTelemetryHook  # after the skip


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    yield provider
    provider.shutdown()


def instrumented(backend, provider, **options):
    return InstrumentedBackend(
        backend, hooks=[OpenTelemetryHook(tracer_provider=provider)], **options
    )


def test_a_call_is_a_span_named_by_the_conventions(spans, provider, fake_server, ask):
    fake_server.response = serve_dialect("vllm")
    ask(instrumented(HTTPBackend(fake_server.url, dialect="vllm", model="bge"), provider))

    attempt, call = spans.get_finished_spans()
    assert ("rerank bge", "INTERNAL") == (call.name, call.kind.name)
    assert {
        "gen_ai.operation.name": "rerank",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "bge",
        "gen_ai.rerank.candidate.count": 2,
        "openinference.span.kind": "RERANKER",
        "reranker.model_name": "bge",
        "rerank.queries": 1,
        "rerank.route": "library",
    } == dict(call.attributes)
    assert call.status.is_ok or call.status.is_unset
    assert ("POST", "CLIENT") == (attempt.name, attempt.kind.name)
    assert {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": int(fake_server.url.rpartition(":")[2]),
        "rerank.documents": 2,
    } == dict(attempt.attributes)


def test_attempts_are_children_of_the_call_from_any_thread_or_task(
    spans, provider, fake_server, ask
):
    ask(instrumented(HTTPBackend(fake_server.url, dialect="tei"), provider), ["hi"] * 70)

    *attempts, call = spans.get_finished_spans()
    assert 3 == len(attempts)
    assert {call.context.span_id} == {attempt.parent.span_id for attempt in attempts}


def test_the_call_is_a_child_of_the_applications_span(spans, provider, ask):
    tracer = provider.get_tracer("app")
    backend = instrumented(FakeBackend(), provider)
    with tracer.start_as_current_span("answer") as outer:
        backend.score("q", ["a"])
    call, answer = spans.get_finished_spans()

    assert outer.get_span_context().span_id == call.parent.span_id
    assert answer.parent is None


def test_the_trace_context_is_sent_to_the_server(spans, provider, fake_server, ask):
    ask(instrumented(HTTPBackend(fake_server.url, dialect="tei"), provider))
    attempt, _ = spans.get_finished_spans()

    _, trace, span, _ = fake_server.requests[0].headers["traceparent"].split("-")
    assert (f"{attempt.context.trace_id:032x}", f"{attempt.context.span_id:016x}") == (trace, span)


def test_failures_are_the_status_of_the_span(spans, provider, fake_server, ask):
    fake_server.response = FakeResponse({"error": "secret"}, 429)
    with pytest.raises(BackendOverloaded):
        ask(instrumented(HTTPBackend(fake_server.url, dialect="tei"), provider))

    for span in spans.get_finished_spans():
        assert "overloaded" == span.attributes["error.type"]
        assert not span.status.is_ok
        assert "secret" not in span.to_json()


def test_retries_fallbacks_and_cache_lookups_are_span_events(spans, provider, ask):
    down = RetryingBackend(
        FailingBackend(BackendUnavailable("down")), attempts=2, initial_backoff=0.0
    )
    chain = FallbackBackend([down, CachedBackend(FakeBackend(name="second"))])
    ask(instrumented(chain, provider))

    (call,) = spans.get_finished_spans()
    assert ["rerank.retry", "rerank.fallback", "rerank.cache"] == [e.name for e in call.events]
    assert {"rerank.reason": "unavailable", "rerank.to": "backend"} == dict(
        call.events[1].attributes
    )
    assert "second" == call.attributes["rerank.scored_by"]


def test_no_span_holds_a_text(spans, provider, fake_server, ask):
    backend = CachedBackend(HTTPBackend(fake_server.url, dialect="tei"))
    ask(instrumented(backend, provider), ["secret document"])

    assert not [span for span in spans.get_finished_spans() if "secret" in span.to_json()]


def test_the_global_provider_is_the_default():
    hook = open_hook("opentelemetry")
    InstrumentedBackend(FakeBackend(), hooks=[hook]).score("q", ["a"])  # without an SDK: nothing

    assert isinstance(pickle.loads(pickle.dumps(hook)), OpenTelemetryHook)


def test_a_hook_with_its_own_provider_cant_be_pickled(provider):
    with pytest.raises(ConfigError, match="provider"):
        pickle.dumps(OpenTelemetryHook(tracer_provider=provider))
