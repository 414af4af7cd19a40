"""Events as spans of OpenTelemetry; the SDK and the exporter are the application's."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

from rerank_plugins._internal.optional import require
from rerank_plugins.errors import ConfigError
from rerank_plugins.hooks.events import (
    AttemptFinished,
    AttemptStarted,
    BreakerChanged,
    CacheLookedUp,
    CallFinished,
    CallStarted,
    Event,
    FellBack,
    Retried,
    Split,
)

__all__ = ["OpenTelemetryHook"]

_SCOPE = "rerank_plugins"


class OpenTelemetryHook:
    """Makes a span of each call, with a child span for each request to a server.

    Names and attributes follow OpenTelemetry's conventions for GenAI and HTTP clients, and those
    of OpenInference for rerankers. Retries, fallbacks, changes of a breaker and cache look-ups are
    events of the call's span. Requests carry the trace on to the server (`traceparent`), with the
    propagators that the application sets. No span holds a text or a key.

    Args:
        tracer_provider: gives the tracer; None is the global provider. With another one the hook
            can be neither pickled nor written as a spec.

    Raises:
        MissingDependencyError: the extra `opentelemetry` is not installed.
    """

    def __init__(self, *, tracer_provider: Any = None) -> None:
        self._trace = require("opentelemetry.trace", extra="opentelemetry")
        self._context = require("opentelemetry.context", extra="opentelemetry")
        self._propagate = require("opentelemetry.propagate", extra="opentelemetry")
        self._is_default = tracer_provider is None
        self._tracer = self._trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        self._open: weakref.WeakKeyDictionary[object, _Open] = weakref.WeakKeyDictionary()

    def __call__(self, event: Event, /) -> None:
        match event:
            case CallStarted():
                self._begin(event, _call_name(event), "INTERNAL", _call_attributes(event))
            case AttemptStarted():
                self._begin(event, "POST", "CLIENT", _attempt_attributes(event))
                self._propagate.inject(event.headers)
            case CallFinished(started, outcome):
                self._end(started, outcome, **_call_results(event))
            case AttemptFinished(started, outcome, _, status_code):
                self._end(started, outcome, **{"http.response.status_code": status_code})
            case Retried(attempt, reason, wait):
                self._add_event("rerank.retry", attempt=attempt, reason=reason, wait=wait)
            case FellBack(reason, to):
                self._add_event("rerank.fallback", reason=reason, to=to)
            case BreakerChanged(endpoint, state):
                self._add_event("rerank.breaker", endpoint=endpoint, state=state)
            case CacheLookedUp(tier, result, pairs):
                self._add_event("rerank.cache", tier=tier, result=result, pairs=pairs)
            case Split(endpoint, documents, parts):
                self._add_event("rerank.split", endpoint=endpoint, documents=documents, parts=parts)

    def _begin(self, event: object, name: str, kind: str, attributes: dict[str, Any]) -> None:
        """Start a span and make it the current one of this thread or task."""
        span = self._tracer.start_span(name, kind=self._trace.SpanKind[kind], attributes=attributes)
        token = self._context.attach(self._trace.set_span_in_context(span))
        self._open[event] = _Open(span, token)

    def _end(self, started: object, outcome: str, **facts: str | int | None) -> None:
        span, token = self._open.pop(started)
        self._context.detach(token)
        span.set_attributes({name: value for name, value in facts.items() if value is not None})
        if outcome != "ok":
            span.set_attribute("error.type", outcome)
            span.set_status(self._trace.StatusCode.ERROR, outcome)
        span.end()

    def _add_event(self, name: str, **facts: Any) -> None:
        """Add an event to the span of the call, or the attempt, in which it happens."""
        attributes = {f"rerank.{fact}": value for fact, value in facts.items()}
        self._trace.get_current_span().add_event(name, attributes)

    def __reduce__(self) -> tuple[object, ...]:
        if not self._is_default:
            raise ConfigError("an `OpenTelemetryHook` with a provider of its own can't be pickled")
        return OpenTelemetryHook, ()


class _Open(NamedTuple):
    span: Any
    token: Any


def _call_name(call: CallStarted) -> str:
    return f"rerank {call.model}" if call.model else "rerank"


def _call_attributes(call: CallStarted) -> dict[str, Any]:
    # `rerank` is proposed for the conventions: open-telemetry/semantic-conventions-genai#253.
    return {
        "gen_ai.operation.name": "rerank",
        "gen_ai.provider.name": call.kind,
        "gen_ai.rerank.candidate.count": call.documents,
        "openinference.span.kind": "RERANKER",
        "rerank.queries": call.queries,
        "rerank.route": call.route,
        **(
            {"gen_ai.request.model": call.model, "reranker.model_name": call.model}
            if call.model
            else {}
        ),
    }


def _call_results(call: CallFinished) -> dict[str, Any]:
    return {
        "gen_ai.usage.input_tokens": call.tokens,
        "rerank.scored_by": call.scored_by,
        "rerank.truncated": call.truncated or None,
        "rerank.cached": call.cached or None,
    }


def _attempt_attributes(attempt: AttemptStarted) -> dict[str, Any]:
    host, _, port = attempt.endpoint.rpartition(":")
    return {
        "http.request.method": "POST",
        "server.address": host.strip("[]"),
        "server.port": int(port),
        "rerank.documents": attempt.documents,
    }
