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
from rerank_plugins.backend import Backend, as_scores
from rerank_plugins.content import Document, Query, Requests, check_request
from rerank_plugins.errors import ConfigError
from rerank_plugins.scores import Scores

__all__ = ["Call", "Do", "Flow", "Sleep", "Step", "Wait", "WrapperBackend", "checked_requests"]


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
"""What a flow may ask for."""
Flow: TypeAlias = Generator[Step, Any, list[Scores]]
"""How a wrapper scores: it yields steps, is sent their results, and returns the scores."""


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
        self.pointwise = wrapped.pointwise
        self.inputs = wrapped.inputs
        self.instructions = wrapped.instructions

    @property
    def name(self) -> str:
        return self.wrapped.name

    @property
    def kind(self) -> str:
        return self.table or type(self).__name__

    @property
    def model(self) -> str | None:
        return self.wrapped.model

    @property
    def label(self) -> str:
        return self.wrapped.label

    @property
    def children(self) -> tuple[Backend, ...]:
        return (self.wrapped,)

    @abstractmethod
    def flow(self, requests: Requests) -> Flow:
        """Yield the steps that lead to one list of scores per request, and return these."""

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Requests) -> list[Scores]:
        return run(self.flow(checked_requests(self, requests)), _perform)

    async def ascore(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        requests = checked_requests(self, [(query, documents)])
        return (await arun(self.flow(requests), _aperform))[0]

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


def checked_requests(backend: Backend, requests: Requests) -> Requests:
    """Return requests that `backend` can score, checked once for it and all below it."""
    inputs, instructions = backend.inputs, backend.instructions
    return [
        check_request(query, documents, inputs=inputs, instructions=instructions)
        for query, documents in requests
    ]


def _perform(step: Step) -> Any:
    match step:
        case Call(backend, requests):
            return _answered(backend, requests, backend.score_many(requests))
        case Do(function):
            return function()
        case Sleep(seconds):
            return time.sleep(seconds)
        case Wait(future, seconds, blocking):
            return future.result(seconds if blocking else 0.0)


def _answered(
    backend: Backend, requests: Requests, answers: Sequence[Sequence[object]]
) -> list[Scores]:
    return [
        as_scores(answer, len(documents), backend)
        for (_, documents), answer in zip(requests, answers, strict=True)
    ]


async def _aperform(step: Step) -> Any:
    match step:
        case Call(backend, requests):
            answers = [await backend.ascore(query, documents) for query, documents in requests]
            return _answered(backend, requests, answers)
        case Do(function):
            return await asyncio.to_thread(function)
        case Sleep(seconds):
            return await asyncio.sleep(seconds)
        case Wait(future, seconds):
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), seconds)
