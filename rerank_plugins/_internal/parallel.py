"""Work in threads and in tasks: several pieces side by side, or one off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

__all__ = ["aside_by_side", "in_thread", "side_by_side"]

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

    `StopIteration` becomes a `RuntimeError`, as in a coroutine: no future of asyncio can hold it,
    and whoever waits for one that should would wait forever.
    """

    def call() -> _Result:
        try:
            return function(*args)
        except StopIteration as error:
            raise RuntimeError("a function in a thread raised StopIteration") from error

    return await asyncio.to_thread(call)
