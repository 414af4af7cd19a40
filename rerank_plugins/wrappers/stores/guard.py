"""Calls to something that may be broken, which must not slow its users down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Guard"]

_log = logging.getLogger("rerank_plugins.cache")

Result = TypeVar("Result")


class Guard:
    """Swallows expected errors; after one, leaves the thing alone for a while.

    When the pause is over, one caller tries; the others go without until that worked. Needs no
    lock: at worst two callers try.

    Args:
        what: what to call the thing in the log.
        expected: the errors that mean it is broken.
        pause: seconds without a call after an error.
        clock: gives the time in seconds; monotonic.
    """

    def __init__(
        self,
        what: str,
        expected: tuple[type[Exception], ...],
        *,
        pause: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._expected = expected
        self._pause = pause
        self._clock = clock
        self._paused_until: float | None = None
        self.errors = 0
        """How many calls failed; those left out are not counted."""

    def call(self, function: Callable[[], Result], otherwise: Result) -> Result:
        """Return what `function` returns, or `otherwise` if it fails or is left out."""
        paused_until = self._paused_until
        if paused_until is not None:
            now = self._clock()
            if now < paused_until:
                return otherwise
            self._paused_until = now + self._pause  # this caller tries, the others don't
        try:
            result = function()
        except self._expected as exc:
            self._note(exc, first=paused_until is None)
            return otherwise
        if paused_until is not None:
            self._paused_until = None
            _log.info("%s works again", self._what)
        return result

    def _note(self, exc: Exception, *, first: bool) -> None:
        self.errors += 1
        if first and self._paused_until is None:
            _log.warning(
                "%s failed (%s); scores are not cached there until it works again, "
                "which is tried every %g s",
                self._what,
                type(exc).__name__,  # its text may repeat what was sent
                self._pause,
            )
        self._paused_until = self._clock() + self._pause
