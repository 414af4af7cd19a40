"""The servers of one model: which to call next, and which to leave alone for a while."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from urllib.parse import urlsplit

from rerank_plugins._internal.circuit import CircuitBreaker, CircuitState, Permit
from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.http.limits import LearnedLimits, Unit
from rerank_plugins.errors import (
    BackendOverloaded,
    BackendTimeout,
    BackendUnavailable,
    InvalidResponse,
)
from rerank_plugins.hooks import BreakerChanged
from rerank_plugins.hooks._dispatch import AttemptFacts, emit, observe_attempt

__all__ = ["Endpoint", "Endpoints"]

MAX_TRIED = 3
"""Most servers that get one request: a request that kills servers must not kill them all."""

COOLDOWN = 1.0
"""Seconds that a failing server is left alone at first."""
MAX_COOLDOWN = 10.0
MAX_RETRY_AFTER = 30.0
"""The longest `Retry-After` for which a server is left alone, in seconds."""

_FAILURES = 3
"""Failures in a row after which a server that still answers is left alone."""
_HANG = 1.0
"""Seconds of silence that count as a hang; a shorter timeout may be the caller's choice."""


class Endpoint:
    """One server: its URL, its limits, its circuit.

    Args:
        url: where it takes rerank requests.
        dialect: the kind of server.
        clock: gives the time in seconds.
    """

    def __init__(self, url: str, *, dialect: str, clock: Callable[[], float] = monotonic) -> None:
        self.url = url
        self.where = f"{dialect} at {url}"
        """What messages call it."""
        self.label = _host_and_port(url)
        """What metrics call it."""
        self.limits = LearnedLimits()
        self.refused_fields: frozenset[str] = frozenset()
        """Fields that this server does not take, as an older version."""
        self.circuit = CircuitBreaker(
            failures=_FAILURES, cooldown=COOLDOWN, max_cooldown=MAX_COOLDOWN, clock=clock
        )
        self.in_flight = 0
        """Requests of this process that it is answering."""

    def describe(self) -> dict[str, object]:
        """Return its state as plain data."""
        return {
            "endpoint": self.label,
            "state": self.circuit.state,
            "in_flight": self.in_flight,
            "max_documents": self.limits.maximum("documents"),
            "max_bytes": self.limits.maximum("bytes"),
        }


class Endpoints:
    """Spreads requests over servers, and notices which of them are down.

    Of two servers chosen at random, the one with fewer requests in flight gets the request ("power
    of two choices": Mitzenmacher, 2001). A server that can't be reached, hangs, or fails three
    times in a row is left alone, for one second at first and for ten at most; then one request
    probes it. While all are left alone, each is tried again: a try is better than an error. A
    single server is always tried.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], clock: Callable[[], float] = monotonic
    ) -> None:
        self.all = tuple(endpoints)
        self._clock = clock
        self._lock = ForkSafeLock()
        self._process_id = os.getpid()

    @property
    def label(self) -> str:
        return ",".join(endpoint.label for endpoint in self.all)

    def maximum(self, unit: Unit) -> int | None:
        """Return the lowest limit that any server has reported; None if none has."""
        maxima = [endpoint.limits.maximum(unit) for endpoint in self.all]
        return min([maximum for maximum in maxima if maximum is not None], default=None)

    def has_untried(self, tried: Collection[Endpoint]) -> bool:
        """Whether a request that these servers got may go to another one."""
        return len(tried) < min(len(self.all), MAX_TRIED)

    @contextmanager
    def attempt(
        self, tried: Collection[Endpoint], documents: int
    ) -> Iterator[tuple[Endpoint, AttemptFacts]]:
        """Choose a server for the request of this block, emit its events, and record its end."""
        endpoint, permit, before = self._enter(tried)
        start, error, facts = self._clock(), None, AttemptFacts()
        try:
            _emit_change(endpoint, before)
            with observe_attempt(endpoint.label, documents, facts):
                yield endpoint, facts
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._leave(endpoint, permit, error, facts, self._clock() - start)

    def _enter(self, tried: Collection[Endpoint]) -> tuple[Endpoint, Permit, CircuitState]:
        """Return the chosen server, the permit to call it, and its state before that."""
        with self._lock:
            if self._process_id != os.getpid():  # forked: the requests in flight are the parent's
                self._process_id = os.getpid()
                for endpoint in self.all:
                    endpoint.in_flight = 0
            endpoint = self._choose(tried)
            endpoint.in_flight += 1
            before = endpoint.circuit.state
            return endpoint, endpoint.circuit.enter(), before

    def _choose(self, tried: Collection[Endpoint]) -> Endpoint:
        if len(self.all) == 1:
            return self.all[0]
        untried = [endpoint for endpoint in self.all if endpoint not in tried]
        candidates = [endpoint for endpoint in untried if endpoint.circuit.admits] or untried
        two = random.sample(candidates, min(2, len(candidates)))
        return min(two, key=lambda endpoint: endpoint.in_flight)

    def _leave(
        self,
        endpoint: Endpoint,
        permit: Permit,
        error: BaseException | None,
        facts: AttemptFacts,
        seconds: float,
    ) -> None:
        with self._lock:
            endpoint.in_flight = max(endpoint.in_flight - 1, 0)
            before = endpoint.circuit.state
            if len(self.all) > 1:
                _record(permit, error, facts, seconds)
            permit.release()
        _emit_change(endpoint, before)


def _record(
    permit: Permit, error: BaseException | None, facts: AttemptFacts, seconds: float
) -> None:
    """Tell the circuit of a server how a request to it ended."""
    if error is None:
        permit.succeed()
    elif isinstance(error, BackendOverloaded):
        if error.retry_after:
            permit.pause(min(error.retry_after, MAX_RETRY_AFTER))
    elif isinstance(error, BackendUnavailable | InvalidResponse):
        timed_out = isinstance(error, BackendTimeout)
        unreachable = facts.status_code is None and not timed_out
        permit.fail(at_once=unreachable or (timed_out and seconds >= _HANG))


def _emit_change(endpoint: Endpoint, before: CircuitState) -> None:
    if endpoint.circuit.state != before:
        emit(BreakerChanged(endpoint.label, endpoint.circuit.state))


def _host_and_port(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{port}"
