"""One call as several requests: cut by what a server takes, sent side by side, all or nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["aside_by_side", "side_by_side", "split", "to_json"]

_LONGEST_ESCAPE = 6
"""Bytes that one character takes in JSON at most."""
_FRAME = 16
"""Bytes around each document: quotes, a comma, and `{"text":}` where documents are objects."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def to_json(value: object) -> bytes:
    """Return `value` as the shortest JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def split(texts: Sequence[str], *, max_documents: int, max_bytes: int) -> list[Sequence[str]]:
    """Cut `texts` into runs that hold neither too many documents nor too many bytes of JSON.

    A document that is too large by itself gets a run of its own.
    """
    most = sum(map(len, texts)) * _LONGEST_ESCAPE + len(texts) * _FRAME
    if most <= max_bytes:  # no need to measure
        starts = range(0, len(texts), max_documents)
        return [texts[start : start + max_documents] for start in starts]
    runs: list[Sequence[str]] = []
    start, room = 0, max_bytes
    for position, text in enumerate(texts):
        needed = len(to_json(text)) + _FRAME
        room -= needed
        if position > start and (room < 0 or position - start == max_documents):
            runs.append(texts[start:position])
            start, room = position, max_bytes - needed
    return [*runs, texts[start:]]


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
        futures = [pool.submit(function, item) for item in items]
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
