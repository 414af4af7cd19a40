"""Log lines that can't flood: an outage is one line a minute, not one per call."""

from __future__ import annotations

from time import monotonic

__all__ = ["Throttle"]


class Throttle:
    """Lets one of many through in each interval; at worst one per thread, when several ask at once.

    Args:
        seconds: the interval.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._next = 0.0

    def __call__(self) -> bool:
        """Return whether this one may pass."""
        now = monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
