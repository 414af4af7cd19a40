"""The driver of flows: logic that is written once for sync and async.

A flow is a generator. It yields steps, receives their results, sees their errors raised at the
`yield`, and returns a result of its own. It does no I/O and never blocks. The idea is that of
httpx's `Auth.auth_flow`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

__all__ = ["arun", "run"]

_Step = TypeVar("_Step")
_Result = TypeVar("_Result")


def run(flow: Generator[_Step, Any, _Result], perform: Callable[[_Step], object]) -> _Result:
    """Perform the steps of a flow in this thread, and return its result."""
    proceed: Callable[[Any], _Step] = flow.send
    value: object = None
    while True:
        try:
            step = proceed(value)
        except StopIteration as stop:
            result: _Result = stop.value
            return result
        try:
            proceed, value = flow.send, perform(step)
        except BaseException as error:  # noqa: BLE001  # the flow decides what it means
            proceed, value = flow.throw, error


async def arun(
    flow: Generator[_Step, Any, _Result], perform: Callable[[_Step], Awaitable[object]]
) -> _Result:
    """Perform the steps of a flow on the running event loop, and return its result."""
    proceed: Callable[[Any], _Step] = flow.send
    value: object = None
    while True:
        try:
            step = proceed(value)
        except StopIteration as stop:
            result: _Result = stop.value
            return result
        try:
            proceed, value = flow.send, await perform(step)
        except BaseException as error:  # noqa: BLE001  # the flow decides, also when cancelled
            proceed, value = flow.throw, error
