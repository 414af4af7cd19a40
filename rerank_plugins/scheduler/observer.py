"""Who is told what a scheduler does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVarTuple

__all__ = ["Observer", "SafeObserver"]

_log = logging.getLogger(__name__)

_Facts = TypeVarTuple("_Facts")


class Observer:
    """Is told what a scheduler does, in its threads; override what you want to know.

    What it raises is logged once and changes nothing for those who wait for scores.
    """

    def waited(self, seconds: float) -> None:
        """The first documents of a request leave the queue, after `seconds`."""

    def scored(self, pairs: int, cost: int, seconds: float) -> None:
        """A batch was scored."""

    def failed(self, error: BaseException, pairs: int) -> None:
        """A batch, or a part of one that was split, was not scored."""

    def shrunk(self, batch_cost: int) -> None:
        """Memory ran out; from now on a batch costs at most `batch_cost`."""

    def cancelled(self, pairs: int) -> None:
        """So many queued documents will not be scored: their request was given up or failed."""


class SafeObserver(Observer):
    """Passes on what it is told to an observer, and keeps to itself what that raises."""

    def __init__(self, wrapped: Observer) -> None:
        self._wrapped = wrapped
        self._has_failed = False

    def waited(self, seconds: float) -> None:
        self._tell(self._wrapped.waited, seconds)

    def scored(self, pairs: int, cost: int, seconds: float) -> None:
        self._tell(self._wrapped.scored, pairs, cost, seconds)

    def failed(self, error: BaseException, pairs: int) -> None:
        self._tell(self._wrapped.failed, error, pairs)

    def shrunk(self, batch_cost: int) -> None:
        self._tell(self._wrapped.shrunk, batch_cost)

    def cancelled(self, pairs: int) -> None:
        self._tell(self._wrapped.cancelled, pairs)

    def _tell(self, hear: Callable[[*_Facts], None], *facts: *_Facts) -> None:
        try:
            hear(*facts)
        except Exception as error:  # noqa: BLE001  # whatever a user's observer may raise
            if not self._has_failed:
                self._has_failed = True
                _log.error(  # no more of it: its message may hold a text that was scored
                    "the observer %s failed with %s; this is logged once",
                    type(self._wrapped).__name__,
                    type(error).__name__,
                )
