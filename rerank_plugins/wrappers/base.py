"""The base of backends around backends, written once for sync and async.

A wrapper implements `flow`, a generator that yields what to do; the same flow serves `score`,
`score_many` and `ascore`.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any, ClassVar

from rerank_plugins._internal.flow import arun, run
from rerank_plugins._internal.plain_numbers import with_plain_numbers
from rerank_plugins.backend import Backend
from rerank_plugins.content import Document, Query, Requests
from rerank_plugins.errors import ConfigError
from rerank_plugins.scores import Scale, Scores
from rerank_plugins.wrappers._requests import checked_requests
from rerank_plugins.wrappers._specs import tables_around, tables_of, wrappers_of_file
from rerank_plugins.wrappers._steps import (
    Blocking,
    Call,
    CallEach,
    Flow,
    Sleep,
    Step,
    Wait,
    aperform,
    perform,
)

__all__ = ["Blocking", "Call", "CallEach", "Flow", "Sleep", "Step", "Wait", "WrapperBackend"]


class WrapperBackend(Backend):
    """A backend around others. Implement `flow`; what is not about it is forwarded.

    Options are keyword-only; each is kept in the attribute of its name with a `_` in front.

    Args:
        children: the backends that it calls.

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
        self.cacheable = all(child.cacheable for child in children)
        self.pointwise = all(child.pointwise for child in children)
        self.inputs = frozenset.intersection(*(child.inputs for child in children))
        self.instructions = all(child.instructions for child in children)
        self.best_part_counts = all(child.best_part_counts for child in children)
        self.reloads = any(child.reloads for child in children)
        lengths = [child.document_tokens for child in children]
        known = [length for length in lengths if length is not None]
        self.document_tokens = max(known) if len(known) == len(lengths) else None

    @property
    def scale(self) -> Scale:  # type: ignore[override]  # a model may know its own once it is loaded
        return self.wrapped.scale

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
        return run(self.flow(checked_requests(self, requests)), perform)

    async def ascore(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return (await arun(self.flow(checked_requests(self, [(query, documents)])), aperform))[0]

    def describe(self) -> dict[str, object]:
        own = {self.table: with_plain_numbers(self._options())} if self.table else {}
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
        if around := tables_around(self.table, tables):
            raise ConfigError(
                f"{self!r} can't be written as a spec: a file puts `[{self.table}]` inside of "
                f"`[{around[0]}]`, and has one of each"
            )
        if self.table not in wrappers_of_file(tables, [self.table]):
            raise ConfigError(
                f"{self!r} can't be written as a spec: `[{self.table}]` applies to remote backends "
                "only"
            )
        return {**tables, self.table: with_plain_numbers(self._options())}

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
