"""Backends around backends, written once for sync and async: a flow yields what to do.

See `rerank_plugins._internal.flow`: the same flow serves `score`, `score_many` and `ascore`.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from rerank_plugins._internal.flow import arun, run
from rerank_plugins.backend import Backend, as_scores
from rerank_plugins.content import CheckedDocuments, Document, Query, Requests, check_request
from rerank_plugins.errors import ConfigError, InvalidResponse
from rerank_plugins.scores import Scores

__all__ = [
    "Blocking",
    "Call",
    "Flow",
    "Sleep",
    "Step",
    "Wait",
    "WrapperBackend",
    "aperform",
    "checked_requests",
    "score_with",
    "tables_of",
    "wrappers_of_file",
]

_TABLES = ("retry", "breaker", "cache", "fallback", "instrument")
"""The wrappers of a configuration file, innermost first."""
_REMOTE_ONLY = frozenset({"retry", "breaker"})
_LOCAL_KINDS = frozenset({"embedded", "local"})
"""The kinds of backend that these are not put around."""


@dataclass(frozen=True, slots=True)
class Call:
    """Score requests with a backend; gives one `Scores` for each."""

    backend: Backend
    requests: Requests


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


Step: TypeAlias = Blocking | Call | Sleep | Wait
"""What a flow may ask for."""
Flow: TypeAlias = Generator[Step, Any, list[Scores]]
"""How a wrapper scores: it yields steps, is sent their results, and returns the scores."""


class WrapperBackend(Backend):
    """A backend around others. Implement `flow`; what is not about it is forwarded.

    Options are keyword-only; each is kept in the attribute of its name with a `_` in front.

    Args:
        children: the backends that it asks.

    Raises:
        ConfigError: there is none, or one is not a `Backend`.
    """

    table: ClassVar[str] = ""
    """The table of a configuration file that adds this wrapper; its keys are the options."""

    def __init__(self, *children: Backend) -> None:
        if not children:
            raise ConfigError(f"`{type(self).__name__}` needs a backend")
        for child in children:
            if not isinstance(child, Backend):
                raise ConfigError(
                    f"`{type(self).__name__}` needs backends, not `{type(child).__name__}`; build "
                    "one from a spec with load_backend()"
                )
        self._children = children
        self.scale = children[0].scale
        self.cacheable = all(child.cacheable for child in children)
        self.pointwise = all(child.pointwise for child in children)
        self.inputs = frozenset.intersection(*(child.inputs for child in children))
        self.instructions = all(child.instructions for child in children)

    @property
    def wrapped(self) -> Backend:
        """The backend inside; of several, the first."""
        return self._children[0]

    @property
    def children(self) -> tuple[Backend, ...]:
        return self._children

    def with_children(self, children: Sequence[Backend]) -> Backend:
        if len(children) != len(self._children):
            raise ConfigError(
                f"{self!r} has {len(self._children)} children, so a copy can't have {len(children)}"
            )
        return self._rebuilt(children, self._options())

    @classmethod
    def _rebuilt(cls, children: Sequence[Backend], options: Mapping[str, Any]) -> Backend:
        return cls(*children, **options)

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
    def endpoint(self) -> str | None:
        return self.wrapped.endpoint

    @abstractmethod
    def flow(self, requests: Requests) -> Flow:
        """Yield the steps that lead to one `Scores` per request, and return these.

        The requests are checked already.
        """

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Requests) -> list[Scores]:
        return run(self.flow(checked_requests(self, requests)), _perform)

    async def ascore(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return (await arun(self.flow(checked_requests(self, [(query, documents)])), aperform))[0]

    def describe(self) -> dict[str, object]:
        own = {self.table: self._options()} if self.table else {}
        return {**self.wrapped.describe(), **own}

    def to_spec(self) -> dict[str, object]:
        """Return the tables of a configuration file.

        Raises:
            ConfigError: no file builds this: the wrapper has no table, or it stands inside one
                that a file puts inside of it, or a backend can't be written as a spec.
        """
        if not self.table:
            return super().to_spec()
        tables = tables_of(self.wrapped)
        inner = [table for table in tables if _place(table) >= _place(self.table)]
        if inner:
            raise ConfigError(
                f"{self!r} can't be written as a spec: a file puts `[{self.table}]` inside of "
                f"`[{inner[0]}]`, and has one of each"
            )
        if self.table not in wrappers_of_file(tables, [self.table]):
            raise ConfigError(
                f"{self!r} can't be written as a spec: `[{self.table}]` applies to remote backends "
                "only"
            )
        return {**tables, self.table: self._options()}

    def __reduce__(self) -> tuple[object, ...]:
        return self._rebuilt, (self._children, self._options())

    def _options(self) -> dict[str, Any]:
        parameters = inspect.signature(type(self)).parameters.values()
        return {
            parameter.name: getattr(self, f"_{parameter.name}")
            for parameter in parameters
            if parameter.kind is parameter.KEYWORD_ONLY
        }

    def close(self) -> None:
        with ExitStack() as stack:
            for child in self._children:
                stack.callback(child.close)

    async def aclose(self) -> None:
        async with AsyncExitStack() as stack:
            for child in self._children:
                stack.push_async_callback(child.aclose)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {' | '.join(map(repr, self._children))}>"


def checked_requests(backend: Backend, requests: Requests) -> Requests:
    """Return requests that `backend` can score, checked once for it and all below it.

    Raises:
        UnsupportedInputError: it can't score one of them.
    """
    if {type(documents) for _, documents in requests} <= {CheckedDocuments}:
        return requests
    inputs, instructions = backend.inputs, backend.instructions
    return [
        check_request(query, documents, inputs=inputs, instructions=instructions)
        for query, documents in requests
    ]


def score_with(backend: Backend, requests: Requests) -> list[Scores]:
    """Return the `Scores` that a backend, which may be one of the user's, gives for requests.

    Raises:
        InvalidResponse: it does not return one finite number for each document.
    """
    return _as_scores(backend, requests, backend.score_many(requests))


def tables_of(backend: Backend) -> dict[str, object]:
    """Return the tables of a configuration file for a backend.

    Raises:
        ConfigError: it can't be written as a spec.
    """
    spec = backend.to_spec()
    return {"backend": spec} if "kind" in spec else spec


def wrappers_of_file(spec: Mapping[str, object], tables: Iterable[str]) -> set[str]:
    """Return those of `tables` that a file puts around the backend that a spec describes."""
    backend = spec["backend"]
    is_local = isinstance(backend, Mapping) and backend["kind"] in _LOCAL_KINDS
    return {*tables} - _REMOTE_ONLY if is_local else {*tables}


def _place(table: str) -> int:
    return _TABLES.index(table) if table in _TABLES else -1


def _perform(step: Step) -> Any:
    match step:
        case Call(backend, requests):
            return score_with(backend, requests)
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
            results = [await backend.ascore(query, documents) for query, documents in requests]
            return _as_scores(backend, requests, results)
        case Blocking(function):
            return await asyncio.to_thread(function)
        case Sleep(seconds):
            return await asyncio.sleep(seconds)
        case Wait(future, seconds):
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), seconds)


def _as_scores(
    backend: Backend, requests: Requests, results: Sequence[Sequence[object]]
) -> list[Scores]:
    if len(results) != len(requests):
        raise InvalidResponse(f"got {len(results)} lists of scores for {len(requests)} requests")
    return [
        as_scores(result, len(documents), backend)
        for (_, documents), result in zip(requests, results, strict=True)
    ]
