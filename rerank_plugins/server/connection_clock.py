"""The clock of a connection, which starts anew with each state."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """Calls a function when the time of a state is over; one timer serves many states.

    Most states end long before their time, so a later deadline leaves the timer as it is.

    Args:
        loop: measures the time.
        on_end: called when it is over.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float | None) -> None:
        """Start anew; None is no end."""
        if seconds is None:
            self._deadline = math.inf
            return
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            self._set_timer()

    def stop(self) -> None:
        """Never call the function any more."""
        self._deadline = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._check)

    def _check(self) -> None:
        """Call the function if the time is up; else the timer was another state's."""
        self._timer = None
        if self._loop.time() >= self._deadline:
            self._on_end()
        elif self._deadline < math.inf:
            self._set_timer()
