"""Locks, threads and imports around a fork."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

__all__ = [
    "ForkAware",
    "ForkSafeCondition",
    "ForkSafeLock",
    "hold_forks",
    "reset_in_forked_child",
]

_LONGEST_HOLD = 60.0
"""Seconds that a fork waits for imports of other threads."""

_Value = TypeVar("_Value")


class ForkAware(Protocol):
    """Holds what does not survive a fork, such as a lock or a thread."""

    def reset_after_fork(self) -> None:
        """Start anew; called in the child before anything else runs there."""


def reset_in_forked_child(holder: ForkAware) -> None:
    """Call `holder.reset_after_fork()` in every forked child, for as long as the holder lives."""
    _holders.add(holder)
    _hook_fork()


@contextmanager
def hold_forks() -> Iterator[None]:
    """Let forks by other threads wait for the end of the block, at most a minute.

    For imports, and for what imports lazily: a fork in the middle of one leaves the module locked
    in the child for good.
    """
    _hook_fork()
    with _imports:
        yield


class ForkSafeLock:
    """A reentrant lock; in a forked child it is free unless the forking thread itself holds it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        reset_in_forked_child(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def acquire(self, *, timeout: float = -1) -> bool:
        """Take the lock, waiting at most `timeout` seconds; say whether it was taken."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def reset_after_fork(self) -> None:
        self._lock = _freed(self._lock)


class ForkSafeCondition:
    """A condition variable that no fork leaves locked; a forked child has no waiters."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        reset_in_forked_child(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification; say whether one came within `timeout` seconds."""
        return self._condition.wait(timeout)

    def wait_for(self, predicate: Callable[[], _Value], timeout: float | None = None) -> _Value:
        """Wait until `predicate()` is true, at most `timeout` seconds; return its last value."""
        return self._condition.wait_for(predicate, timeout)

    def notify(self) -> None:
        """Wake one waiter."""
        self._condition.notify()

    def notify_all(self) -> None:
        """Wake all waiters."""
        self._condition.notify_all()

    def reset_after_fork(self) -> None:
        self._lock = _freed(self._lock)
        self._condition = threading.Condition(self._lock)


def _freed(lock: threading.RLock) -> threading.RLock:
    """Return the lock if the thread that forked can take it, else a new one."""
    if lock.acquire(blocking=False):
        lock.release()
        return lock
    return threading.RLock()


_imports = threading.RLock()
_forking = threading.local()
"""Whether the thread that forks holds `_imports`, as `has_imports`."""
_holders: weakref.WeakSet[ForkAware] = weakref.WeakSet()


@functools.cache
def _hook_fork() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=_after_fork_in_parent,
            after_in_child=_after_fork_in_child,
        )


def _before_fork() -> None:
    _forking.has_imports = _imports.acquire(timeout=_LONGEST_HOLD)


def _after_fork_in_parent() -> None:
    if _forking.has_imports:
        _imports.release()


def _after_fork_in_child() -> None:
    global _imports  # noqa: PLW0603  # the lock of a thread that the child does not have
    if _forking.has_imports:
        _imports.release()
    else:
        _imports = threading.RLock()
    for holder in list(_holders):
        holder.reset_after_fork()
