"""The circuit breaker: whether something that keeps failing may be called."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import Literal, TypeAlias

from rerank_plugins._internal.locks import ForkSafeLock

__all__ = ["CircuitBreaker", "CircuitState", "Permit"]

CircuitState: TypeAlias = Literal["closed", "half_open", "open"]
"""`"closed"`: calls pass. `"open"`: none does. `"half_open"`: one passes, as a probe."""


class CircuitBreaker:
    """Counts the failures of something, and decides whether a call may go through.

    It opens after `failures` failures in a row. When the cooldown is over, one call passes as a
    probe: its success closes the circuit, its failure starts the next cooldown. Results that
    belong to an earlier period, such as that of a call which began before the circuit opened,
    change nothing. Threads, tasks and event loops may share it; a forked child drops the probes
    of its parent.

    Args:
        failures: how many failures in a row open it.
        cooldown: seconds for which it stays open.
        max_cooldown: each failed probe doubles the cooldown, up to this; None keeps it constant.
        clock: gives the time in seconds; monotonic.
    """

    def __init__(
        self,
        *,
        failures: int = 1,
        cooldown: float,
        max_cooldown: float | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._failures = failures
        self._cooldown = cooldown
        self._max_cooldown = cooldown if max_cooldown is None else max_cooldown
        self._clock = clock
        self._lock = ForkSafeLock()
        self._failed = 0
        self._opened = 0
        """How often in a row it opened because of a failure."""
        self._open_until: float | None = None
        self._probe: Permit | None = None
        self._period = 0
        """Counts the openings and closings."""

    @property
    def state(self) -> CircuitState:
        if self._open_until is None:
            return "closed"
        return "half_open" if self._is_probed() else "open"

    @property
    def retry_after(self) -> float:
        """Seconds that are left of the cooldown; 0 if it is over, or the circuit is closed."""
        open_until = self._open_until
        return 0.0 if open_until is None else max(0.0, open_until - self._clock())

    @property
    def admits(self) -> bool:
        """Whether a call would pass now."""
        return self._open_until is None or self._may_probe()

    def try_enter(self) -> Permit | None:
        """Let a call pass if the circuit allows it; None means that it must not be made."""
        with self._lock:
            return self._enter() if self.admits else None

    def enter(self) -> Permit:
        """Let a call pass whatever the state, where a try is better than an error."""
        with self._lock:
            return self._enter()

    def _enter(self) -> Permit:
        permit = Permit(self, self._period)
        if self._open_until is not None and self._may_probe():
            self._probe = permit
        return permit

    def _may_probe(self) -> bool:
        return self.retry_after <= 0 and not self._is_probed()

    def _is_probed(self) -> bool:
        probe = self._probe
        return probe is not None and probe.process_id == os.getpid()

    def _succeed(self, permit: Permit) -> bool:
        with self._lock:
            if permit.period != self._period:
                return False
            self._failed = self._opened = 0
            if self._open_until is None:
                return False
            self._change(open_until=None)
            return True

    def _fail(self, permit: Permit, *, at_once: bool) -> bool:
        with self._lock:
            is_probe = permit is self._probe
            if permit.period != self._period or (self._open_until is not None and not is_probe):
                return False
            self._failed += 1
            if not (is_probe or at_once or self._failed >= self._failures):
                return False
            doubled = self._cooldown * 2.0 ** min(self._opened, 60)
            self._opened += 1
            self._change(open_until=self._clock() + min(doubled, self._max_cooldown))
            return True

    def _pause(self, permit: Permit, seconds: float) -> None:
        with self._lock:
            if permit.period == self._period:
                self._change(open_until=self._clock() + seconds)

    def _release(self, permit: Permit) -> None:
        with self._lock:
            if permit is self._probe:
                self._probe = None

    def _change(self, *, open_until: float | None) -> None:
        self._open_until = open_until
        self._failed = 0
        self._probe = None
        self._period += 1


class Permit:
    """Leave to make one call; say how it ends with one of the methods.

    `release()` may follow each of the others, so it can stand in a `finally`.
    """

    __slots__ = ("_circuit", "period", "process_id")

    def __init__(self, circuit: CircuitBreaker, period: int) -> None:
        self._circuit = circuit
        self.period = period
        self.process_id = os.getpid()

    def succeed(self) -> bool:
        """The call succeeded; say whether that closed the circuit."""
        return self._circuit._succeed(self)  # noqa: SLF001  # of this module's own class

    def fail(self, *, at_once: bool = False) -> bool:
        """The call failed; say whether that opened the circuit, as `at_once` always does."""
        return self._circuit._fail(self, at_once=at_once)  # noqa: SLF001

    def pause(self, seconds: float) -> None:
        """Let no call through for so long, as the other side requests; that is no failure."""
        self._circuit._pause(self, seconds)  # noqa: SLF001

    def release(self) -> None:
        """The call is over and shows nothing about the other side."""
        self._circuit._release(self)  # noqa: SLF001
