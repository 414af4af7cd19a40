"""A timer that starts anew with each use, and calls back once there was none for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

__all__ = ["IdleTimer"]


class IdleTimer:
    """Calls `expired` in a thread of its own, `seconds` after the last `restart()`.

    Not safe by itself: its owner calls all methods with a lock held, and `expired` takes that lock
    and looks at `remaining`.

    Args:
        seconds: how long nothing has to happen.
        expired: called when that may be so.
    """

    def __init__(self, seconds: float, expired: Callable[[], None]) -> None:
        self._seconds = seconds
        self._expired = expired
        self._last = monotonic()
        self._thread: threading.Timer | None = None

    def restart(self) -> None:
        """Count from now on; a running thread sees it when it wakes."""
        self._last = monotonic()
        if self._thread is None or not self._thread.is_alive():  # none survives a fork
            self._start(self._seconds)

    def remaining(self) -> float:
        """Return the seconds until it expires, for `expired`, whose thread ends with it.

        If there are any, a new thread waits for them; else the next `restart()` starts one.
        """
        left = self._last + self._seconds - monotonic()
        self._thread = None
        if left > 0:
            self._start(left)
        return left

    def stop(self) -> None:
        """End the thread, unless it calls back already."""
        if self._thread is not None:
            self._thread.cancel()
            self._thread = None

    def _start(self, seconds: float) -> None:
        self._thread = threading.Timer(seconds, self._expired)
        self._thread.name, self._thread.daemon = "rerank-idle", True
        self._thread.start()
