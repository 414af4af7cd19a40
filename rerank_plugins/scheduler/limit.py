"""The size of batches, which follows the memory that there is."""

from __future__ import annotations

import math
from time import monotonic

__all__ = ["BatchLimit"]

_FIRST_PAUSE = 60.0
"""Seconds between a batch that was too large and the first try of a larger one."""
_LAST_PAUSE = 3600.0


class BatchLimit:
    """The maximum cost of a batch: less once memory has run out, and more again after a while.

    It doubles after a minute, then each minute, up to where it began. Where that proves too much
    again, the pause between two tries doubles, up to an hour.

    Args:
        cost: where it begins.
    """

    def __init__(self, cost: int) -> None:
        self.cost = cost
        self._most = cost
        self._pause = _FIRST_PAUSE
        self._grows_at = math.inf
        self._has_grown = False

    @property
    def is_lowered(self) -> bool:
        """Whether it is less than where it began."""
        return self.cost < self._most

    def shrink(self, cost: int) -> bool:
        """Lower the limit to `cost`, and to 1 at least; return whether it was higher."""
        if self.cost <= max(1, cost):
            return False
        self.cost = max(1, cost)
        if self._has_grown:  # too far
            self._pause = min(_LAST_PAUSE, 2 * self._pause)
            self._has_grown = False
        self._grows_at = monotonic() + self._pause
        return True

    def restore(self, cost: int) -> None:
        """Take back what was shrunk from `cost`, since the size of the batch was not to blame."""
        self.cost = max(self.cost, cost)
        if not self.is_lowered:
            self._grows_at = math.inf

    def grow(self) -> None:
        """Raise the limit, if it is time to try."""
        now = monotonic()
        if now < self._grows_at:
            return
        self.cost = min(self._most, 2 * self.cost)
        self._has_grown = True
        self._grows_at = now + self._pause if self.is_lowered else math.inf
