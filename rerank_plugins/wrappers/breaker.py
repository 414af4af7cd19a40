"""A backend that is left alone for a while when it keeps failing."""

from __future__ import annotations

import math
from time import monotonic
from typing import Literal, TypeAlias

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backend import Backend
from rerank_plugins.errors import BackendUnavailable, ConfigError, InvalidResponse
from rerank_plugins.hooks import BreakerChanged
from rerank_plugins.hooks._dispatch import dispatcher
from rerank_plugins.wrappers.base import Call, Flow, Requests, WrapperBackend

__all__ = ["CircuitBreakingBackend"]

State: TypeAlias = Literal["closed", "half_open", "open"]


class CircuitBreakingBackend(WrapperBackend):
    """Fails at once while the wrapped backend is down, instead of letting every caller wait.

    After `failures` calls in a row that end in `BackendUnavailable` or `InvalidResponse`, calls
    raise `BackendUnavailable` at once, with the seconds that are left in `retry_after`. After
    `cooldown` seconds one call goes through, as a probe: if it succeeds, so may all; if it fails,
    the next cooldown begins. Threads, tasks and event loops share the count.

    Refusals of the caller's input or key, and cancelled calls, say nothing about the backend and
    count neither way.

    Args:
        wrapped: the backend that scores.
        failures: how many calls in a row must fail.
        cooldown: seconds to leave the backend alone.

    Raises:
        ConfigError: an option is out of range.
    """

    table = "breaker"

    def __init__(self, wrapped: Backend, *, failures: int = 5, cooldown: float = 10.0) -> None:
        super().__init__(wrapped)
        if not isinstance(failures, int) or failures < 1:
            raise ConfigError(f"`failures` must be an integer of at least 1, not {failures!r}")
        if not 0 < cooldown < math.inf:
            raise ConfigError(f"`cooldown` must be a number of seconds above 0, not {cooldown!r}")
        self._failures = failures
        self._cooldown = cooldown
        self._circuit = _Circuit(failures, cooldown)
        self._told = ""

    def flow(self, requests: Requests) -> Flow:
        period = self._circuit.enter()
        works: bool | None = None
        try:
            self._tell_state()
            scores: list[list[float]] = yield Call(self.wrapped, requests)
            works = True
        except (BackendUnavailable, InvalidResponse):
            works = False
            raise
        finally:
            self._circuit.leave(period, works)
            self._tell_state()
        return scores

    def _tell_state(self) -> None:
        if (told := dispatcher()) is not None and self._told != (state := self._circuit.state()):
            self._told = state
            told(BreakerChanged(_endpoint(self.wrapped), state))


def _endpoint(backend: Backend) -> str:
    """Return the server that a backend asks, or what it is."""
    while isinstance(backend, WrapperBackend):
        backend = backend.wrapped
    return str(getattr(backend, "endpoint", type(backend).__name__))


class _Circuit:
    """Closed: calls pass. Open: none does. Half-open: one does, whose end decides."""

    def __init__(self, failures: int, cooldown: float) -> None:
        self._failures = failures
        self._cooldown = cooldown
        self._lock = ForkSafeLock()
        self._failed = 0
        self._open_until: float | None = None
        self._probing = False
        self._period = 0
        """Counts openings and closings; what a call of an earlier period found is old news."""

    def enter(self) -> int:
        """Let a call pass, and return the period it belongs to."""
        with self._lock:
            if self._open_until is not None:
                left = self._open_until - monotonic()
                if left > 0:
                    raise BackendUnavailable(
                        f"failed {self._failures} times in a row or more: not asked for another "
                        f"{left:.3g} s",
                        retry_after=left,
                    )
                if self._probing:
                    raise BackendUnavailable("failed too often: one call is trying it out now")
                self._probing = True
            return self._period

    def state(self) -> State:
        if self._open_until is None:
            return "closed"
        return "half_open" if self._probing else "open"

    def leave(self, period: int, works: bool | None) -> None:  # noqa: FBT001  # three outcomes
        """Note how a call ended; None says nothing about the backend."""
        with self._lock:
            if period != self._period:
                return
            probing, self._probing = self._probing, False
            if works is None:
                return
            self._failed = 0 if works else self._failed + 1
            if works and probing:
                self._open_until = None
                self._period += 1
            elif not works and (probing or self._failed >= self._failures):
                self._open_until = monotonic() + self._cooldown
                self._failed = 0
                self._period += 1
