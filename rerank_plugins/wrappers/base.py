"""Backends around backends, written once for sync and async: a flow yields what to do.

See `rerank_plugins._internal.flow`: the same flow serves `score`, `score_many` and `ascore`.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

from rerank_plugins._internal.flow import arun, run
from rerank_plugins.backend import Backend, Document, check_texts
from rerank_plugins.errors import ConfigError

__all__ = ["Call", "Do", "Flow", "Requests", "Sleep", "Step", "Wait", "WrapperBackend"]

Requests: TypeAlias = Sequence[tuple[str, Sequence[Document]]]
"""`(query, documents)` pairs, checked."""


@dataclass(frozen=True, slots=True)
class Call:
    """Ask a backend; the result is what its `score_many` returns."""

    backend: Backend
    requests: Requests


@dataclass(frozen=True, slots=True)
class Do:
    """Call a blocking function, in a thread where there is an event loop; gives its result."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait for some seconds; the result is None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for what another caller works on, without cancelling it; gives its result.

    Raises `TimeoutError` when the time is up.
    """

    future: Future[Any]
    seconds: float | None = None
    """The longest time to wait; None is as long as it takes."""
    blocking: bool = True
    """Whether a sync caller waits at all; it must not where the work may need its thread."""


Step: TypeAlias = Call | Do | Sleep | Wait
Flow: TypeAlias = Generator[Step, Any, list[list[float]]]


class WrapperBackend(Backend):
    """A backend around a backend. Implement `flow`; what is not about it is forwarded.

    Options are keyword-only; each is kept in the attribute of its name with a `_` in front.
    """

    table: ClassVar[str] = ""
    """The table of a configuration file that adds this wrapper; its keys are the options."""

    def __init__(self, wrapped: Backend) -> None:
        self.wrapped = wrapped
        self.scale = wrapped.scale
        self.cacheable = wrapped.cacheable

    @property
    def name(self) -> str:
        return self.wrapped.name

    @abstractmethod
    def flow(self, requests: Requests) -> Flow:
        """Yield the steps that lead to one list of scores per request, and return these."""

    def score(self, query: str, documents: Sequence[Document]) -> list[float]:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Requests) -> list[list[float]]:
        return run(self.flow(_checked(requests)), _perform)

    async def ascore(self, query: str, documents: Sequence[Document]) -> list[float]:
        return (await arun(self.flow(_checked([(query, documents)])), _aperform))[0]

    def describe(self) -> dict[str, object]:
        mine = {self.table: self._options()} if self.table else {}
        return {**self.wrapped.describe(), **mine}

    def to_spec(self) -> dict[str, object]:
        """Return the tables of a configuration file."""
        if not self.table:
            return super().to_spec()
        spec = self.wrapped.to_spec()
        tables = {"backend": spec} if "kind" in spec else spec
        if self.table in tables:
            raise ConfigError(f"a backend with two `{self.table}` wrappers can't be written down")
        return {**tables, self.table: self._options()}

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), **self._options()), (self.wrapped,)

    def _options(self) -> dict[str, Any]:
        parameters = inspect.signature(type(self)).parameters.values()
        return {
            parameter.name: getattr(self, f"_{parameter.name}")
            for parameter in parameters
            if parameter.kind is parameter.KEYWORD_ONLY
        }

    def close(self) -> None:
        self.wrapped.close()

    async def aclose(self) -> None:
        await self.wrapped.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.wrapped!r}>"


def _checked(requests: Requests) -> Requests:
    for query, documents in requests:
        check_texts(query, documents)
    return requests


def _perform(step: Step) -> Any:
    match step:
        case Call(backend, requests):
            return backend.score_many(requests)
        case Do(function):
            return function()
        case Sleep(seconds):
            return time.sleep(seconds)
        case Wait(future, seconds, blocking):
            return future.result(seconds if blocking else 0.0)


async def _aperform(step: Step) -> Any:
    match step:
        case Call(backend, requests):
            return [await backend.ascore(query, documents) for query, documents in requests]
        case Do(function):
            return await asyncio.to_thread(function)
        case Sleep(seconds):
            return await asyncio.sleep(seconds)
        case Wait(future, seconds):
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), seconds)
