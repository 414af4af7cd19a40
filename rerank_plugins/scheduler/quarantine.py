"""Which documents end the process of a model: they are scored alone, and then not at all."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from time import monotonic

from rerank_plugins.content import Document, Query
from rerank_plugins.errors import DocumentQuarantined

__all__ = ["Quarantine", "refusal"]

_log = logging.getLogger(__name__)

_SECONDS = 600.0
"""How long a document is remembered: the crash may have had another cause, or be mended."""
_MOST = 4096


class Quarantine:
    """Remembers documents, each with its query, by what happened when they were scored.

    Those in progress when the process ended are suspects: each is scored alone when it comes again,
    since one of them may end the next process, too. One that was alone twice is condemned; one that
    is scored in between is not. So a process that ends by itself condemns nobody. Only hashes are
    kept, the last 4,096 of each kind, for ten minutes.
    """

    def __init__(self) -> None:
        self._suspects = _Recent()
        self._alone_once = _Recent()
        self._condemned = _Recent()

    def check(self, query: str | Query, documents: Sequence[Document]) -> None:
        """Check that none of these documents is condemned.

        Raises:
            DocumentQuarantined: one is.
        """
        if not self._condemned:
            return
        for index, document in enumerate(documents):
            if (query, document) in self._condemned:
                raise refusal(index)

    @property
    def has_suspects(self) -> bool:
        """Whether there may be any; mostly there are none, and no text need be hashed."""
        return bool(self._suspects)

    def suspects(self, query: str | Query, documents: Iterable[Document]) -> list[bool]:
        """Return for each document whether it is to be scored alone."""
        return [(query, document) in self._suspects for document in documents]

    def suspect(self, query: str | Query, documents: Iterable[Document]) -> None:
        """Record that the process ended while it scored these documents, among others."""
        for document in documents:
            self._suspects.add((query, document))

    def suspect_alone(self, query: str | Query, document: Document) -> bool:
        """Record that a document was alone when the process ended; return whether that is enough.

        The first time, it was in progress as any other.
        """
        pair = query, document
        if pair not in self._suspects:
            self._suspects.add(pair)
        elif pair not in self._alone_once:
            self._alone_once.add(pair)
        else:
            _log.error("a document ended the model's process again and again; now it is refused")
            self.clear(query, [document])
            self._condemned.add(pair)
            return True
        return False

    def clear(self, query: str | Query, documents: Iterable[Document]) -> None:
        """Record that these documents have been scored."""
        for document in documents:
            self._suspects.remove((query, document))
            self._alone_once.remove((query, document))


class _Recent:
    """The hashes of the values added last, each for a while.

    Python keys the hashes of strings by a secret of the process, so nobody can forge one.
    """

    def __init__(self) -> None:
        self._until: OrderedDict[int, float] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._until) and monotonic() < next(reversed(self._until.values()))

    def __contains__(self, value: object) -> bool:
        until = self._until.get(hash(value))
        return until is not None and monotonic() < until

    def add(self, value: object) -> None:
        now = monotonic()
        self._until.pop(hash(value), None)
        self._until[hash(value)] = now + _SECONDS
        while len(self._until) > _MOST or next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)

    def remove(self, value: object) -> None:
        self._until.pop(hash(value), None)


def refusal(index: int) -> DocumentQuarantined:
    """Return the error for a request that holds a condemned document."""
    return DocumentQuarantined(
        f"document {index} ended the model's process three times, so it is refused for now; leave "
        "it out",
        document=index,
    )
