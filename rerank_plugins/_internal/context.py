"""What travels with a call besides its arguments: its deadline, downwards; who scored, upwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Scorer", "deadline", "restore", "scored_by", "scorer", "told_to", "until"]

_Value = TypeVar("_Value")

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


@dataclass
class Scorer:
    """Who scored, and who wants to know what becomes of it."""

    name: str | None = None
    """Which backend of a chain scored; None means that there was no choice."""
    tell: Callable[[Any], None] | None = None
    """Takes the event that the scores were not to be had, if anybody listens."""


_scorer: ContextVar[Scorer | None] = ContextVar("scorer", default=None)


def restore(variable: ContextVar[_Value], token: Token[_Value]) -> None:
    """Give a variable the value it had before `token` came of it."""
    with suppress(ValueError):  # a task that is thrown away with its loop ends in another context
        variable.reset(token)


@contextmanager
def until(end: float) -> Iterator[None]:
    """Give the calls in this block until `end`, in seconds of `time.monotonic()`, at most."""
    token = _deadline.set(min(end, _deadline.get()))
    try:
        yield
    finally:
        restore(_deadline, token)


def deadline() -> float:
    """Return when the call must be over, in seconds of `time.monotonic()`; `inf` for never."""
    return _deadline.get()


@contextmanager
def scorer() -> Iterator[Scorer]:
    """Learn which backend scores in this block, also if it does in a thread or a task."""
    listener = Scorer()
    token = _scorer.set(listener)
    try:
        yield listener
    finally:
        restore(_scorer, token)


def scored_by(name: str) -> None:
    """Tell who scored; of chains in chains, the innermost is the one that knows."""
    listener = _scorer.get()
    if listener is not None and listener.name is None:
        listener.name = name


def told_to(tell: Callable[[Any], None]) -> None:
    """Say who hears the events of this call; of several, the outermost."""
    listener = _scorer.get()
    if listener is not None and listener.tell is None:
        listener.tell = tell
