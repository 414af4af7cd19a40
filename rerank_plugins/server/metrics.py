"""What the server counts and measures, for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from rerank_plugins.hooks import CallFinished, CallStarted, Event
from rerank_plugins.hooks._dispatch import observe_call
from rerank_plugins.hooks.prometheus import DURATION_BUCKETS, PrometheusHook
from rerank_plugins.scheduler import Observer

__all__ = ["BatchMetrics", "ServerMetrics"]

_SHORT = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_POWERS = tuple(2**power for power in range(11))
_TOKENS = tuple(2**power for power in range(5, 18))


class ServerMetrics:
    """The metrics of one server, in a registry of its own.

    No label holds anything that a request says.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        if os.path.exists("/proc/self/stat"):  # noqa: PTH110  # as the collector looks
            ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._hook = PrometheusHook(registry=registry)
        self.requests = self._hook.metrics.requests
        self.duration = self._hook.metrics.request_duration
        self.pairs = self._hook.metrics.pairs
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
            "Most estimated tokens of a batch: less than was set, once memory ran out.",
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "rerank_batch_duration_seconds",
            "What a batch took to be scored.",
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.rejected = Counter(
            "rerank_rejected", "Requests refused, by reason.", ["reason"], registry=registry
        )
        self.cancelled = Counter(
            "rerank_cancelled_pairs",
            "Pairs whose request was given up, by what had become of them.",
            ["stage"],
            registry=registry,
        )
        self.failures = Counter(
            "rerank_model_failures",
            "Batches that were not scored, by the kind of error.",
            ["kind"],
            registry=registry,
        )
        self.oom_splits = Counter(
            "rerank_oom_splits", "Batches split because memory ran out.", registry=registry
        )
        self.restarts = Counter(
            "rerank_model_restarts",
            "How often the model's process was started again.",
            registry=registry,
        )
        self.ready = Gauge(
            "rerank_model_ready", "Whether the model is loaded and warm.", registry=registry
        )
        self.load_seconds = Gauge(
            "rerank_model_load_seconds",
            "What the model took to be loaded and warmed up.",
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
            "How much too late the event loop wakes up.",
            buckets=_SHORT,
            registry=registry,
        )
        self.auth_failures = Counter(
            "rerank_auth_failures",
            "Requests without a valid key, by reason.",
            ["reason"],
            registry=registry,
        )

    def listening(self) -> AbstractContextManager[None]:
        """Count what is told inside the block: cache look-ups, attempts, retries, fallbacks."""
        return observe_call((self._hear,), CallStarted("server", "", None, 0, 0))

    def _hear(self, event: Event, /) -> None:
        if not isinstance(event, CallStarted | CallFinished):  # requests are counted at the edge
            self._hook(event)


class BatchMetrics(Observer):
    """Puts what the scheduler does into the metrics, and passes on whether memory suffices."""

    def __init__(
        self,
        metrics: ServerMetrics,
        *,
        out_of_memory: Callable[[int], None],
        enough_memory: Callable[[], None],
    ) -> None:
        self._metrics = metrics
        self._out_of_memory = out_of_memory
        self._enough_memory = enough_memory

    def waited(self, seconds: float) -> None:
        self._metrics.queue_wait.observe(seconds)

    def scored(self, pairs: int, cost: int, seconds: float) -> None:
        self._metrics.pairs.inc(pairs)
        self._metrics.batch_pairs.observe(pairs)
        self._metrics.batch_tokens.observe(cost)
        self._metrics.batch_seconds.observe(seconds)
        self._enough_memory()

    def failed(self, error: BaseException, pairs: int) -> None:
        self._metrics.failures.labels(type(error).__name__).inc()
        if isinstance(error, MemoryError):
            self._out_of_memory(pairs)

    def shrunk(self, batch_cost: int) -> None:  # noqa: ARG002  # in the log already
        self._metrics.oom_splits.inc()

    def cancelled(self, pairs: int) -> None:
        self._metrics.cancelled.labels("queued").inc(pairs)
