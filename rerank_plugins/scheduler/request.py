"""The documents of one caller on their way through batches, and the future that it waits on."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from time import monotonic
from typing import TypeAlias

from rerank_plugins.content import CheckedDocuments, Document, Query
from rerank_plugins.errors import RerankError
from rerank_plugins.hooks._dispatch import Dispatcher
from rerank_plugins.scores import Scores

__all__ = ["Batch", "QueuedRequest"]


class QueuedRequest:
    """The documents of one caller, their scores so far, and the future for all of them."""

    __slots__ = (
        "__weakref__",
        "client",
        "costs",
        "deficit",
        "dispatcher",
        "documents",
        "future",
        "parts",
        "pending",
        "pending_cost",
        "query",
        "submitted",
        "waiting",
    )

    def __init__(
        self,
        query: str | Query,
        documents: Sequence[Document],
        costs: Sequence[int],
        dispatcher: Dispatcher | None,
        client: str | None = None,
    ) -> None:
        self.client = client
        self.query = query
        self.documents = documents
        self.costs = costs
        self.pending = sorted(range(len(documents)), key=costs.__getitem__)  # longest is last
        self.pending_cost = sum(costs)
        self.waiting = len(documents)
        self.parts: list[tuple[Sequence[int], Scores]] = []
        self.deficit = 0
        self.submitted: float | None = monotonic()  # None once a batch has begun
        self.future: Future[Scores] = Future()
        self.dispatcher = dispatcher

    def take(self, budget: int, max_documents: int) -> list[int]:
        """Remove and return the longest pending documents that the deficit and budget pay for."""
        taken: list[int] = []
        while self.pending and len(taken) < max_documents:
            cost = self.costs[self.pending[-1]]
            if cost > self.deficit or cost > budget:
                break
            self.deficit -= cost
            self.pending_cost -= cost
            budget -= cost
            taken.append(self.pending.pop())
        return taken

    def is_interrupted(self) -> bool:
        """Whether the deficit would pay for another document."""
        return bool(self.pending) and self.costs[self.pending[-1]] <= self.deficit

    def take_one(self) -> list[int]:
        """Remove and return the longest pending document, on credit if need be."""
        index = self.pending.pop()
        self.deficit -= self.costs[index]
        self.pending_cost -= self.costs[index]
        return [index]

    def part(self, indices: Sequence[int]) -> Sequence[Document]:
        """Return the documents at `indices`; checked ones as such, so nobody checks them again."""
        if isinstance(self.documents, CheckedDocuments):
            return self.documents.take(indices)
        return [self.documents[index] for index in indices]

    def finish(self, indices: Sequence[int], scores: Scores) -> None:
        self.parts.append((indices, scores))
        self.waiting -= len(indices)
        if not self.waiting:
            self._settle(
                lambda: self.future.set_result(Scores.merge(len(self.documents), self.parts))
            )

    def fail(self, error: BaseException) -> None:
        """Raise `error` for the caller; one of ours in a copy, as other callers may get it, too."""
        own = _copy(error) if isinstance(error, RerankError) else error
        self._settle(lambda: self.future.set_exception(own))

    def _settle(self, settle: Callable[[], None]) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled, or another part failed first
            settle()


def _copy(error: RerankError) -> RerankError:
    """Copy an error: raised in several calls, it would mix up their notes and tracebacks."""
    try:
        own = copy.copy(error)
    except Exception:  # noqa: BLE001  # a subclass of the user's that is made in another way
        return error
    own.args = error.args
    if hasattr(error, "__notes__"):
        own.__notes__ = list(error.__notes__)
    own.__cause__, own.__context__ = error.__cause__, error.__context__
    own.__suppress_context__ = error.__suppress_context__
    return own.with_traceback(error.__traceback__)


Batch: TypeAlias = list[tuple[QueuedRequest, list[int]]]
"""Requests, each with the indices of those of its documents that are scored now."""
