"""Torch in a forked child, where neither its CPU threads nor its GPUs exist any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from rerank_plugins._internal.locks import reset_in_forked_child

__all__ = ["call_with_live_threads"]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class _ForkedThread:
    """The thread that forked this process: the only one whose OpenMP threads are dead.

    GNU OpenMP keeps a pool for each thread that runs parallel code, and that thread would wait for
    its pool forever. Any other thread starts a pool of its own.
    """

    def __init__(self) -> None:
        self._id: int | None = None
        self._substitute: ThreadPoolExecutor | None = None
        reset_in_forked_child(self)

    def reset_after_fork(self) -> None:
        self._id = threading.get_ident()
        self._substitute = ThreadPoolExecutor(1, "rerank-torch")

    def call(
        self,
        function: Callable[_Parameters, _Result],
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> _Result:
        if self._substitute is None or threading.get_ident() != self._id:
            return function(*args, **kwargs)
        return self._substitute.submit(function, *args, **kwargs).result()


call_with_live_threads = _ForkedThread().call
"""Call a function that runs torch; in the thread that forked, leave that to another thread."""
