"""Calls to a store that may be broken, which must not slow its users down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from rerank_plugins._internal.circuit import CircuitBreaker

__all__ = ["Guard"]

_log = logging.getLogger("rerank_plugins.cache")

Result = TypeVar("Result")


class Guard:
    """Catches the expected errors of a store, and leaves it alone for a while after each.

    Args:
        what: what the log calls the store, or the use of it that may fail.
        expected: the errors that mean it is broken.
        pause: seconds without a call after an error; then one caller tries.
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
        self._circuit = CircuitBreaker(cooldown=pause, clock=clock)
        self.errors = 0
        """How many calls failed; calls that were not made don't count."""

    def call(self, function: Callable[[], Result], otherwise: Result) -> Result:
        """Return what `function` returns, or `otherwise` if it fails or is not called."""
        was_closed = self._circuit.state == "closed"
        permit = self._circuit.try_enter()
        if permit is None:
            return otherwise
        try:
            result = function()
        except self._expected as error:
            self.errors += 1
            if permit.fail() and was_closed:
                self._warn(error)
            return otherwise
        finally:
            permit.release()
        if permit.succeed():
            _log.info("%s works again", self._what)
        return result

    def _warn(self, error: Exception) -> None:
        _log.warning(
            "%s failed (%s); the cache does without it and tries it again every %g s",
            self._what,
            type(error).__name__,  # its text may repeat what was sent
            self._pause,
        )
