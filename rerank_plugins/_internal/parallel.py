"""Work in threads and in tasks: several pieces side by side, or one off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

from rerank_plugins.errors import BackendError

__all__ = ["as_error", "aside_by_side", "in_daemon_thread", "in_thread", "side_by_side"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def side_by_side(
    function: Callable[[_Item], _Result], items: Sequence[_Item], limit: int
) -> list[_Result]:
    """Return `function` of each item, in order, with at most `limit` threads at work.

    The first failure is raised at once; what has not begun by then never does.
    """
    if len(items) <= 1 or limit == 1:
        return [function(item) for item in items]
    pool = ThreadPoolExecutor(min(limit, len(items)))
    try:
        # Each thread gets the caller's deadline and hooks, in a copy of the context of its own.
        futures = [pool.submit(copy_context().run, function, item) for item in items]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()  # raises the failure, if there is one
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


async def aside_by_side(
    function: Callable[[_Item], Awaitable[_Result]], items: Sequence[_Item], limit: int
) -> list[_Result]:
    """Like `side_by_side`, in tasks: a failure or a cancellation ends all of them."""
    if len(items) <= 1:
        return [await function(item) for item in items]
    results: dict[int, _Result] = {}
    waiting = iter(enumerate(items))

    async def work() -> None:
        for position, item in waiting:
            results[position] = await function(item)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(limit, len(items))):
                tasks.create_task(work())
    except BaseExceptionGroup as failed:
        first = failed.exceptions[0]
        raise first from first.__cause__
    return [results[position] for position in range(len(items))]


async def in_thread(function: Callable[..., _Result], *args: object) -> _Result:
    """Call `function` in a thread, with this context, and return what it returns.

    What no task can raise becomes a `BackendError`; see `as_error`.
    """

    def call() -> _Result:
        try:
            return function(*args)
        except BaseException as raised:
            if (error := as_error(raised)) is raised:
                raise
            raise error from raised

    return await asyncio.to_thread(call)


def in_daemon_thread(function: Callable[[], _Result], *, name: str) -> Future[_Result]:
    """Call `function` in a thread that the end of Python does not wait for.

    The future gives what it returns; what no future can hold becomes a `BackendError`.
    """
    future: Future[_Result] = Future()
    future.set_running_or_notify_cancel()  # who waits for it may go, but the thread stays

    def call() -> None:
        try:
            result = function()
        except BaseException as raised:  # noqa: BLE001  # raised again by the future
            future.set_exception(as_error(raised))
        else:
            future.set_result(result)

    threading.Thread(target=call, name=name, daemon=True).start()
    return future


def as_error(raised: BaseException) -> Exception:
    """Return `raised`, or a `BackendError` in its place if it means something else to a loop.

    `SystemExit` ends an event loop or a thread, as do the panics of libraries written in Rust; the
    `CancelledError` of a model looks as if its caller had been cancelled; and a future of asyncio
    that should hold `StopIteration` is never done.
    """
    if isinstance(raised, Exception) and not isinstance(raised, StopIteration | CancelledError):
        return raised
    return BackendError(f"the model failed with {type(raised).__name__}")
