"""What travels with a call besides its arguments: its deadline, and for whom it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from typing import TypeVar

__all__ = ["client", "deadline", "on_behalf_of", "restore", "until"]

_Value = TypeVar("_Value")

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
_client: ContextVar[str | None] = ContextVar("client", default=None)


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
def on_behalf_of(name: str) -> Iterator[None]:
    """Have the calls in this block share what there is with those of other clients."""
    token = _client.set(name)
    try:
        yield
    finally:
        restore(_client, token)


def client() -> str | None:
    """Return for which client of a server the call is; None outside of servers."""
    return _client.get()
