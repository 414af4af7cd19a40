"""The steps that a flow yields, and how they are performed in a thread and on an event loop.

See `rerank_plugins._internal.flow`, which drives the flows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias

from rerank_plugins._internal.parallel import aside_by_side, in_thread, side_by_side
from rerank_plugins.backend import Backend, ascore_with
from rerank_plugins.content import Requests
from rerank_plugins.errors import RerankError
from rerank_plugins.scores import Scores
from rerank_plugins.wrappers._requests import score_with

__all__ = ["Blocking", "Call", "CallEach", "Flow", "Sleep", "Step", "Wait", "aperform", "perform"]


@dataclass(frozen=True, slots=True)
class Call:
    """Score requests with a backend; gives one `Scores` for each."""

    backend: Backend
    requests: Requests


@dataclass(frozen=True, slots=True)
class CallEach:
    """Score the same requests with several backends side by side; gives a result for each.

    A result is a list of one `Scores` per request, or an error of a kind that is tolerated; the
    first other error is raised at once.
    """

    backends: Sequence[Backend]
    requests: Requests
    tolerates: Callable[[RerankError], bool]


@dataclass(frozen=True, slots=True)
class Blocking:
    """Call a function that blocks, in a thread where there is an event loop; gives its result."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait for some seconds; gives None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for the work of another caller, without cancelling it; gives its result.

    Raises `TimeoutError` when the time is up.
    """

    future: Future[Any]
    seconds: float | None = None
    """The longest time to wait; None is as long as it takes."""
    blocking: bool = True
    """Whether a sync caller may wait; it must not where the work may need its thread."""


Step: TypeAlias = Blocking | Call | CallEach | Sleep | Wait
"""What a flow may yield."""
Flow: TypeAlias = Generator[Step, Any, list[Scores]]
"""How a wrapper scores: it yields steps, is sent their results, and returns the scores."""


def perform(step: Step) -> Any:
    """Perform a step in this thread."""
    match step:
        case Call(backend, requests):
            return score_with(backend, requests)
        case CallEach(backends):
            return side_by_side(lambda backend: _result(step, backend), backends, len(backends))
        case Blocking(function):
            return function()
        case Sleep(seconds):
            return time.sleep(seconds)
        case Wait(future, seconds, blocking):
            return future.result(seconds if blocking else 0.0)


async def aperform(step: Step) -> Any:
    """Perform a step on the running event loop."""
    match step:
        case Call(backend, requests):
            return [await ascore_with(backend, query, documents) for query, documents in requests]
        case CallEach(backends):
            return await aside_by_side(
                lambda backend: _aresult(step, backend), backends, len(backends)
            )
        case Blocking(function):
            return await in_thread(function)
        case Sleep(seconds):
            return await asyncio.sleep(seconds)
        case Wait(future, seconds):
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), seconds)


def _result(step: CallEach, backend: Backend) -> list[Scores] | RerankError:
    try:
        return score_with(backend, step.requests)
    except RerankError as error:
        if step.tolerates(error):
            return error
        raise


async def _aresult(step: CallEach, backend: Backend) -> list[Scores] | RerankError:
    try:
        requests = step.requests
        return [await ascore_with(backend, query, documents) for query, documents in requests]
    except RerankError as error:
        if step.tolerates(error):
            return error
        raise
