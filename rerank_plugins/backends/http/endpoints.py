"""The servers of one model: whom to ask next, and whom to leave alone for a while."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.http.limits import Limits
from rerank_plugins.errors import (
    BackendOverloaded,
    BackendTimeout,
    BackendUnavailable,
    InvalidResponse,
)
from rerank_plugins.hooks import BreakerChanged
from rerank_plugins.hooks._dispatch import AttemptFacts, emit, observe_attempt

__all__ = ["Endpoint", "Endpoints"]

MOST_TRIED = 3
"""Most servers that one request is sent to: one that kills servers must not kill them all."""

_FAILURES = 3
"""Failures in a row after which a server that still replies is left alone."""
_FIRST_REST = 1.0
_LONGEST_REST = 10.0
_LONGEST_WISH = 30.0
"""Most seconds that a server is left alone because it asks for it."""
_HANGING = 1.0
"""Seconds of silence that are no accident; less may be the fault of a caller in a hurry."""

_State: TypeAlias = Literal["closed", "half_open", "open"]


class Endpoint:
    """One server: where it is, what it takes, how it does."""

    def __init__(self, url: str, *, dialect: str) -> None:
        self.url = url
        """Where it takes requests."""
        self.where = f"{dialect} at {url}"
        """What messages call it."""
        self.label = _host_and_port(url)
        """What metrics call it."""
        self.limits = Limits()
        self.in_flight = 0
        self.failures = 0
        """In a row."""
        self.rests = 0
        """How often in a row it was left alone."""
        self.back_at: float | None = None
        """When it may be tried again, if it is left alone."""
        self.probing = False
        """Whether a request is under way that tries it."""

    @property
    def state(self) -> _State:
        """As a circuit breaker would call it."""
        if self.back_at is None:
            return "closed"
        return "half_open" if self.probing else "open"

    def describe(self) -> dict[str, object]:
        return {
            "endpoint": self.label,
            "state": self.state,
            "in_flight": self.in_flight,
            "max_documents": self.limits.most("documents"),
            "max_bytes": self.limits.most("bytes"),
        }


class Endpoints:
    """Spreads requests over servers, and notices which of them are dead.

    Of two servers chosen at random the one with fewer requests in flight is asked ("power of two
    choices": Mitzenmacher, 2001). One that can't be reached, hangs, or fails three times in a row
    is left alone, for one second at first and for ten at most; then one request tries it. If all
    are left alone, all are asked: better a try than an error. A single server is always asked.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.all = tuple(endpoints)
        self._lock = ForkSafeLock()
        self._pid = os.getpid()

    @property
    def label(self) -> str:
        return ",".join(endpoint.label for endpoint in self.all)

    def most(self, by: Literal["documents", "bytes"]) -> int | None:
        """Return the lowest limit that a server has told, if any."""
        told = (endpoint.limits.most(by) for endpoint in self.all)
        return min((most for most in told if most is not None), default=None)

    def others(self, tried: Collection[Endpoint]) -> bool:
        """Whether there is a server to ask after those that were tried."""
        return len(tried) < min(len(self.all), MOST_TRIED)

    @contextmanager
    def asked(
        self, tried: Collection[Endpoint], documents: int
    ) -> Iterator[tuple[Endpoint, AttemptFacts]]:
        """Choose a server for this block, tell the hooks, and note how it does."""
        endpoint, before = self._taken(tried)
        start, error, told = monotonic(), None, AttemptFacts()
        try:
            _tell_change(endpoint, before)
            with observe_attempt(endpoint.label, documents, told):
                yield endpoint, told
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._give_back(endpoint, error, told, monotonic() - start)

    def _taken(self, tried: Collection[Endpoint]) -> tuple[Endpoint, _State]:
        """Return a server that now has one request more, and its state before that."""
        if len(self.all) == 1:
            return self.all[0], self.all[0].state
        with self._lock:
            if self._pid != os.getpid():  # a fork: the requests in flight are the parent's
                self._pid = os.getpid()
                for endpoint in self.all:
                    endpoint.in_flight, endpoint.probing = 0, False
            now = monotonic()
            left = [endpoint for endpoint in self.all if endpoint not in tried]
            usable = [one for one in left if _is_usable(one, now)] or left
            two = random.sample(usable, min(2, len(usable)))
            chosen = min(two, key=lambda endpoint: endpoint.in_flight)
            chosen.in_flight += 1
            before = chosen.state
            if chosen.back_at is not None and chosen.back_at <= now:
                chosen.probing = True
        return chosen, before

    def _give_back(
        self, endpoint: Endpoint, error: BaseException | None, told: AttemptFacts, seconds: float
    ) -> None:
        if len(self.all) == 1:
            return
        with self._lock:
            before = endpoint.state
            endpoint.in_flight = max(endpoint.in_flight - 1, 0)
            endpoint.probing = False
            if error is None:
                endpoint.failures = endpoint.rests = 0
                endpoint.back_at = None
            elif isinstance(error, BackendOverloaded):
                if error.retry_after:
                    endpoint.back_at = monotonic() + min(error.retry_after, _LONGEST_WISH)
            elif before == "open":
                pass  # it is known to be down: what was in flight fails with it
            elif isinstance(error, BackendUnavailable | InvalidResponse):
                endpoint.failures += 1
                hangs = isinstance(error, BackendTimeout) and seconds >= _HANGING
                is_gone = told.status_code is None and not isinstance(error, BackendTimeout)
                if hangs or is_gone or before == "half_open" or endpoint.failures >= _FAILURES:
                    rest = min(_FIRST_REST * 2.0 ** min(endpoint.rests, 10), _LONGEST_REST)
                    endpoint.back_at = monotonic() + rest
                    endpoint.rests += 1
                    endpoint.failures = 0
        _tell_change(endpoint, before)


def _is_usable(endpoint: Endpoint, now: float) -> bool:
    return endpoint.back_at is None or (endpoint.back_at <= now and not endpoint.probing)


def _tell_change(endpoint: Endpoint, before: _State) -> None:
    if endpoint.state != before:
        emit(BreakerChanged(endpoint.label, endpoint.state))


def _host_and_port(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{port}"
