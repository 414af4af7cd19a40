"""The server's metrics, for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from rerank_plugins.hooks import (
    BatchFinished,
    BatchShrunk,
    CallFinished,
    CallStarted,
    Dequeued,
    Dropped,
    Event,
)
from rerank_plugins.hooks.prometheus import DURATION_BUCKETS, PrometheusHook

__all__ = ["ServerMetrics"]

_SHORT = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_POWERS = tuple(2**power for power in range(11))
_TOKENS = tuple(2**power for power in range(5, 18))


class ServerMetrics:
    """The metrics of one server, in a registry of its own.

    No label holds anything of a request.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        if os.path.exists("/proc/self/stat"):  # noqa: PTH110  # as the collector looks
            ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._prometheus = PrometheusHook(registry=registry)
        self.requests = self._prometheus.metrics.requests
        self.duration = self._prometheus.metrics.request_duration
        self.pairs = self._prometheus.metrics.pairs
        self.tokens = self._prometheus.metrics.tokens
        self.inflight = Gauge(
            "rerank_inflight_requests", "Requests in progress.", registry=registry
        )
        self.queue_wait = Histogram(
            "rerank_queue_wait_seconds",
            "From the arrival of a request to its first batch.",
            buckets=_SHORT,
            registry=registry,
        )
        self.queue_pairs = Gauge(
            "rerank_queue_pairs", "Pairs that wait to be scored.", registry=registry
        )
        self.queue_tokens = Gauge(
            "rerank_queue_tokens",
            "Estimated tokens that wait to be scored.",
            registry=registry,
        )
        self.batch_pairs = Histogram(
            "rerank_batch_pairs", "Pairs in a batch.", buckets=_POWERS, registry=registry
        )
        self.batch_tokens = Histogram(
            "rerank_batch_tokens",
            "Estimated tokens in a batch.",
            buckets=_TOKENS,
            registry=registry,
        )
        self.batch_limit = Gauge(
            "rerank_batch_tokens_limit",
            "Most estimated tokens of a batch; lower than its setting after memory ran out.",
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "rerank_batch_duration_seconds",
            "Seconds to score a batch.",
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.rejected = Counter(
            "rerank_rejected", "Requests refused, by reason.", ["reason"], registry=registry
        )
        self.cancelled = Counter(
            "rerank_cancelled_pairs",
            "Pairs whose request was cancelled, by the stage they had reached.",
            ["stage"],
            registry=registry,
        )
        self.failures = Counter(
            "rerank_model_failures",
            "Batches that were not scored, by outcome.",
            ["kind"],
            registry=registry,
        )
        self.oom_splits = Counter(
            "rerank_oom_splits", "Batches split because memory ran out.", registry=registry
        )
        self.restarts = Counter(
            "rerank_model_restarts",
            "Restarts of the model's process.",
            registry=registry,
        )
        self.ready = Gauge(
            "rerank_model_ready", "Whether the model is loaded and warm.", registry=registry
        )
        self.load_seconds = Gauge(
            "rerank_model_load_seconds",
            "Seconds to load the model and warm it up.",
            registry=registry,
        )
        self.info = Gauge(
            "rerank_model_info",
            "The model that scores.",
            ["model", "revision", "backend", "dtype"],
            registry=registry,
        )
        self.lag = Histogram(
            "rerank_event_loop_lag_seconds",
            "How late the event loop wakes up.",
            buckets=_SHORT,
            registry=registry,
        )
        self.evicted = Counter(
            "rerank_evicted_connections",
            "Connections that were closed because others needed their place or memory, by which.",
            ["needed"],
            registry=registry,
        )
        self.dropped_log_lines: Callable[[], int] = lambda: 0
        """Returns how many lines nobody read; a logger may count where nothing may wait."""
        registry.register(_DroppedLogLines(self))
        self.auth_failures = Counter(
            "rerank_auth_failures",
            "Requests without a valid key, by reason.",
            ["reason"],
            registry=registry,
        )

    def hook(self, event: Event, /) -> None:
        """Count what happens while a backend scores, and what the scheduler does."""
        match event:
            case CallStarted() | CallFinished():
                pass  # requests are counted where they arrive
            case Dequeued(seconds):
                self.queue_wait.observe(seconds)
            case BatchFinished(documents, tokens, "ok", seconds):
                self.pairs.inc(documents)
                self.batch_pairs.observe(documents)
                self.batch_tokens.observe(tokens)
                self.batch_seconds.observe(seconds)
            case BatchFinished(outcome=outcome):
                self.failures.labels(outcome).inc()
            case BatchShrunk():
                self.oom_splits.inc()
            case Dropped(documents):
                self.cancelled.labels("queued").inc(documents)
            case _:
                self._prometheus(event)


class _DroppedLogLines(Collector):
    """Reads the count when it is asked for it."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "rerank_dropped_log_lines",
            "Lines of the log that were dropped because nobody read them.",
            value=self._metrics.dropped_log_lines(),
        )
