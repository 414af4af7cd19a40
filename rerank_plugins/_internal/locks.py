"""A lock that no fork can leave locked."""

from __future__ import annotations

import functools
import os
import threading
import weakref

__all__ = ["ForkSafeLock"]


class ForkSafeLock:
    """A lock that is free in a forked child, whichever thread of the parent held it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _locks.add(self)
        _hook_fork()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def _free(self) -> None:
        self._lock = threading.Lock()


_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


@functools.cache
def _hook_fork() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_free_all)


def _free_all() -> None:
    for lock in list(_locks):
        lock._free()  # noqa: SLF001  # of this module's own class
