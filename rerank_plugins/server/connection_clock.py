"""The clock of a connection, which starts anew with each state, and how long each may last."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from rerank_plugins.server.connection_pressure import State
from rerank_plugins.server.settings import ServerSettings

__all__ = ["Clock", "seconds_in"]

_BODY_GRACE_SECONDS, _BODY_GRACE_SHARE = 1.0, 0.25
"""How much longer a body may take here than in the application, which responds 408 to it."""

_LINGER_SECONDS = 1.0
"""How long a client that is still sending has to read the last response.

Closing at once would reset the connection, and the response might be lost with it.
"""


def seconds_in(state: State, settings: ServerSettings) -> float | None:
    """Return how long a connection may be in a state; None leaves it to the application."""
    match state:
        case State.IDLE:
            return settings.keep_alive_seconds
        case State.HEAD:
            return settings.header_seconds
        case State.BODY:
            grace = min(_BODY_GRACE_SECONDS, settings.body_seconds * _BODY_GRACE_SHARE)
            return settings.body_seconds + grace
        case State.WRITING:
            return settings.write_seconds
        case State.ENDING:
            return _LINGER_SECONDS
        case State.SERVING:
            return None


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
