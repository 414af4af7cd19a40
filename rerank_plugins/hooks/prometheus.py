"""Events as metrics of `prometheus_client`."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins._internal.optional import require
from rerank_plugins.errors import ConfigError
from rerank_plugins.hooks.events import (
    AttemptFinished,
    BreakerChanged,
    CacheLookedUp,
    CallFinished,
    Computed,
    Event,
    FellBack,
    Retried,
    Truncated,
    Windowed,
)

__all__ = ["DURATION_BUCKETS", "Metrics", "PrometheusHook"]

DURATION_BUCKETS = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds in seconds of all histograms of durations."""

_SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)

_MAX_VALUES = 100
"""Most values of a label that comes from a configuration; later values are counted as `other`."""

_STATES = {"closed": 0, "half_open": 1, "open": 2}


class PrometheusHook:
    """Counts calls, attempts, retries, fallbacks, breaker states and cache look-ups.

    Hooks of one registry share its metrics, so any number of backends may have such a hook. The
    values of labels come from the configuration and from fixed lists, never from a request.

    Args:
        registry: the `CollectorRegistry`; None is the one that `prometheus_client` serves by
            default. With another one the hook can be neither pickled nor written as a spec.

    Raises:
        MissingDependencyError: the extra `prometheus` is not installed.
    """

    def __init__(self, *, registry: Any = None) -> None:
        library = require("prometheus_client", extra="prometheus")
        self._is_default = registry is None
        self._registry = library.REGISTRY if registry is None else registry
        with _lock:
            if self._registry not in _metrics:
                _metrics[self._registry] = Metrics(library, self._registry)
        self.metrics = _metrics[self._registry]
        """Its metrics, for code that counts more of the same."""

    def __call__(self, event: Event, /) -> None:
        metrics = self.metrics
        match event:
            case CallFinished(started, outcome, seconds):
                route = metrics.bounded("route", started.route)
                metrics.requests.labels(route, outcome).inc()
                metrics.request_duration.labels(route).observe(seconds)
                if outcome == "ok":
                    metrics.pairs.inc(started.documents)
                    metrics.tokens.inc(event.tokens or 0)
            case AttemptFinished(started, outcome, seconds):
                endpoint = metrics.bounded("endpoint", started.endpoint)
                metrics.attempts.labels(endpoint, outcome).inc()
                metrics.attempt_duration.labels(endpoint).observe(seconds)
            case Retried(_, reason):
                metrics.retries.labels(reason).inc()
            case FellBack(reason):
                metrics.fallbacks.labels(reason).inc()
            case BreakerChanged(endpoint, state):
                endpoint = metrics.bounded("endpoint", endpoint)
                metrics.breaker_state.labels(endpoint).set(_STATES[state])
            case CacheLookedUp(tier, result, pairs):
                metrics.cache_lookups.labels(metrics.bounded("tier", tier), result).inc(pairs)
            case Truncated(documents):
                metrics.truncated.inc(documents)
            case Windowed(documents, windows):
                metrics.windowed.inc(documents)
                metrics.windows.inc(windows)
            case Computed(model, tokens, padding, memory):
                model = metrics.bounded("model", model)
                metrics.padding.labels(model).observe(padding / max(tokens, 1))
                for kind, size in memory.items():
                    metrics.device_memory.labels(model, kind).set(size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrometheusHook) and self._registry is other._registry

    def __hash__(self) -> int:
        return hash(self._registry)

    def __reduce__(self) -> tuple[object, ...]:
        if not self._is_default:
            raise ConfigError("a `PrometheusHook` with a registry of its own can't be pickled")
        return PrometheusHook, ()


class Metrics:
    """The metrics of one registry."""

    def __init__(self, library: Any, registry: Any) -> None:
        counter = partial(library.Counter, registry=registry)
        histogram = partial(library.Histogram, registry=registry, buckets=DURATION_BUCKETS)
        self.requests = counter("rerank_requests_total", "Calls for scores.", ["route", "outcome"])
        self.request_duration = histogram(
            "rerank_request_duration_seconds",
            "Time until a call had scores or an error.",
            ["route"],
        )
        self.pairs = counter("rerank_pairs_total", "Pairs of a query and a document scored.")
        self.tokens = counter(
            "rerank_tokens_total", "Tokens that calls read, where the backend counts them."
        )
        self.attempts = counter(
            "rerank_client_attempts_total", "Requests to servers.", ["endpoint", "outcome"]
        )
        self.attempt_duration = histogram(
            "rerank_client_attempt_duration_seconds", "Time of a request to a server.", ["endpoint"]
        )
        self.retries = counter("rerank_client_retries_total", "Attempts repeated.", ["reason"])
        self.fallbacks = counter(
            "rerank_fallback_total",
            "Calls that went on to another backend or to the original order.",
            ["reason"],
        )
        self.breaker_state = library.Gauge(
            "rerank_breaker_state",
            "Circuit breaker: 0 closed, 1 half open, 2 open.",
            ["endpoint"],
            registry=registry,
        )
        self.cache_lookups = counter(
            "rerank_cache_lookups_total", "Pairs looked up in a cache.", ["tier", "result"]
        )
        self.truncated = counter(
            "rerank_truncated_pairs_total", "Pairs cut because they were too long."
        )
        self.windowed = counter(
            "rerank_windowed_pairs_total", "Pairs read in windows because they are long."
        )
        self.windows = counter(
            "rerank_windows_total", "Windows of pairs that were read in several."
        )
        self.padding = library.Histogram(
            "rerank_padding_ratio",
            "Share of padding in what a local model read for a call.",
            ["model"],
            buckets=_SHARES,
            registry=registry,
        )
        self.device_memory = library.Gauge(
            "rerank_device_memory_bytes",
            "Memory of the device that a local model runs on, after its last call.",
            ["model", "kind"],
            registry=registry,
        )
        self._seen: dict[str, set[str]] = {}

    def bounded(self, label: str, value: str) -> str:
        """Return the value of a label, or `other` if there are too many."""
        seen = self._seen.setdefault(label, set())
        if value not in seen:
            if len(seen) >= _MAX_VALUES:
                return "other"
            seen.add(value)
        return value


_lock = ForkSafeLock()
_metrics: weakref.WeakKeyDictionary[Any, Metrics] = weakref.WeakKeyDictionary()
