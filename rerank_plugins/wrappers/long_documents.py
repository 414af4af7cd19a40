"""A backend that reads long documents in windows, for servers that cut or refuse them."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, TypeGuard, overload

from rerank_plugins._internal.checks import check_integer
from rerank_plugins._internal.context import client
from rerank_plugins._internal.counted_windows import CountedWindows
from rerank_plugins._internal.long_documents import LongDocuments, LongDocumentsMode, pool
from rerank_plugins._internal.token_count import (
    TokenCount,
    check_count_tokens,
    counter,
    file_digest,
)
from rerank_plugins._internal.windows import split
from rerank_plugins.backend import Backend
from rerank_plugins.content import CheckedDocuments, Document, Query, Requests
from rerank_plugins.errors import BackendRejected, ConfigError, UnsupportedInputError
from rerank_plugins.hooks import Truncated, Windowed
from rerank_plugins.hooks._dispatch import emit
from rerank_plugins.scores import Passage, Scores
from rerank_plugins.wrappers.base import Call, Flow, Step, WrapperBackend

__all__ = ["LongDocumentsBackend"]

_MAX_WINDOWS = 32
"""Fewer than of a model on this machine: each window is sent, and often billed."""
_MOST_CLIENTS = 1024
"""Clients of a server whose limits are kept."""
_SHORTEST = 256
"""Characters below which a refusal is not about the length."""

_TOO_LONG = re.compile(
    r"too (large|long)|too many tokens|maximum (context|sequence|input)|"
    r"(context|sequence|input|max\w*)[ _-]?(length|size|tokens)|exceed\w*.{0,60}(token|length)|"
    r"(fewer|less|at most|more) than \d+ tokens|at most \d+ tokens",
    re.IGNORECASE,
)
"""What servers say of a text that is longer than their model reads."""


class LongDocumentsBackend(WrapperBackend):
    """Splits documents that are too long for a server into windows, of which the best counts.

    How much a server reads is given in characters or in tokens, or learned from it: when it
    refuses a request as too long, the longest texts are halved until it takes them, so that one
    long document never fails a whole call; later requests begin there. What a server cuts without
    a word can't be learned: set a limit. Documents that are not longer are sent as they are.

    Scores of windows whose size is learned depend on what came before; they are not `cacheable`.
    Nor are those of windows that a function counts, of which a name can't say which it is.

    Args:
        wrapped: the backend that scores.
        long_documents: `"best"` reads windows; `"truncate"` the start; `"error"` refuses documents
            above the limit, and leaves refusals of the server as they are.
        max_characters: the most characters of a document that the server reads; None: what it
            accepts.
        window_tokens: the same in tokens, in place of `max_characters`; it needs `count_tokens`.
        count_tokens: what counts them: a function from a text to a number, or the path of a
            `tokenizer.json` or of a folder with one; best that of the server's model.
        best_windows: how many windows make the score: 1 is the best one, more the mean of so many.
        max_windows: the most windows of a document; the rest is left out, and told.

    Raises:
        ConfigError: an option has an invalid value or type, one of two that belong together is
            missing, or the tokenizer can't be read.
    """

    table = "long_documents"

    def __init__(
        self,
        wrapped: Backend,
        *,
        long_documents: LongDocumentsMode = "best",
        max_characters: int | None = None,
        window_tokens: int | None = None,
        count_tokens: TokenCount = None,
        best_windows: int = 1,
        max_windows: int = _MAX_WINDOWS,
    ) -> None:
        super().__init__(wrapped)
        self._settings = LongDocuments(
            long_documents=long_documents, best_windows=best_windows, max_windows=max_windows
        )
        check_integer("window_tokens", window_tokens, least=1, optional=True)
        check_integer("max_characters", max_characters, least=1, optional=True)
        check_count_tokens(count_tokens)
        if (window_tokens is None) is not (count_tokens is None):
            raise ConfigError(
                "`window_tokens` and `count_tokens` belong together: how many tokens the server "
                "reads of a document, and what counts them"
            )
        if max_characters is not None and window_tokens is not None:
            raise ConfigError("set one of `max_characters` and `window_tokens`, not both")
        self._long_documents = long_documents
        self._max_characters = max_characters
        self._window_tokens = window_tokens
        self._count_tokens = os.fspath(count_tokens) if _is_path(count_tokens) else count_tokens
        self._counted = (
            None if window_tokens is None else CountedWindows(counter(count_tokens), window_tokens)
        )
        self._best_windows = best_windows
        self._max_windows = max_windows
        self._learned: dict[str | None, int] = {}
        """Characters of a query and a document together, since a long query leaves less for these;
        by the client of a server, whose odd texts say nothing of the texts of others."""
        self.cacheable = wrapped.cacheable and (
            max_characters is not None or (window_tokens is not None and _is_path(count_tokens))
        )

    @property
    def name(self) -> str:
        return self._named(self.wrapped.name)

    def _named(self, name: str) -> str:
        size = "" if self._max_characters is None else f"&max_characters={self._max_characters}"
        if self._window_tokens is not None:
            size = f"&window_tokens={self._window_tokens}&count_tokens={self._counted_by}"
        return f"{name}{self._settings.name or '&long_documents=truncate'}{size}"

    @cached_property
    def _counted_by(self) -> str:
        """What counts tokens: of a file a hash of what it says, of a function its name."""
        counts = self._count_tokens
        if isinstance(counts, str):
            return file_digest(counts)
        return getattr(counts, "__qualname__", type(counts).__qualname__)

    def describe(self) -> dict[str, object]:
        described = {**super().describe(), "name": self.name, "cacheable": self.cacheable}
        if callable(self._count_tokens):
            described[self.table] = {**self._options(), "count_tokens": self._counted_by}
        return described

    def to_spec(self) -> dict[str, object]:
        if callable(self._count_tokens):
            raise ConfigError(
                f"{self!r} can't be written as a spec: `count_tokens` is a function; give the path "
                "of a `tokenizer.json`"
            )
        return super().to_spec()

    def flow(self, requests: Requests) -> Flow:
        results = []
        for query, documents in requests:
            results.append((yield from self._score(query, documents)))
        return results

    def _score(
        self, query: str | Query, documents: Sequence[Document]
    ) -> Generator[Step, Any, Scores]:
        is_set = self._max_characters is not None or self._counted is not None
        learns = not is_set and self._long_documents != "error"
        limit, beside = self._max_characters, _characters(query)
        learned = self._learned.get(client())
        if limit is None and learned is not None:
            limit = max(_SHORTEST, learned - beside)
        refused = False
        while True:
            parts = [self._parts(at, text, limit) for at, text in enumerate(documents)]
            texts: Sequence[Document] = documents
            if any(part.passages for part in parts):
                pieces = [piece for part in parts for piece in part.texts]
                texts = CheckedDocuments(query, pieces)
            try:
                (scores,) = yield Call(self.wrapped, [(query, texts)])
            except BackendRejected as error:
                longest = max((len(text) for text in texts if isinstance(text, str)), default=0)
                if not learns or longest <= _SHORTEST or not _is_too_long(error):
                    raise
                refused, limit = True, max(_SHORTEST, longest // 2)
                continue
            if refused and limit is not None:  # what helped; what was tried in vain says nothing
                self._learn(limit + beside)
            if scores.backend is not None:
                scores = replace(scores, backend=self._named(scores.backend))
            return scores if texts is documents else self._pooled(scores, parts)

    def _learn(self, length: int) -> None:
        """Begin there in later requests of this client."""
        known = self._learned.get(client(), length)
        if len(self._learned) >= _MOST_CLIENTS:
            self._learned = {}  # they learn it again
        self._learned[client()] = min(length, known)

    def _parts(self, at: int, document: Document, limit: int | None) -> _Parts:
        if not isinstance(document, str):
            return _Parts([document], [], 1.0)
        if self._counted is not None:
            return self._counted_parts(at, document, self._counted)
        if limit is None or len(document) <= limit:
            return _Parts([document], [], 1.0)
        if self._long_documents == "error":
            raise UnsupportedInputError(
                f"document {at} has {len(document)} characters, and the server reads {limit}; "
                'split it, or set long_documents="best" to read it in windows'
            )
        if self._long_documents == "truncate":
            return _Parts([document[:limit]], [Passage(0, limit)], limit / len(document))
        windows = split(document, _Characters(len(document)), limit, limit=self._max_windows)
        passages = [Passage(window.start, window.end) for window in windows]
        read = 1.0 if windows[-1].last == len(document) else windows[-1].end / len(document)
        return _Parts([document[start:end] for start, end in passages], passages, read)

    def _counted_parts(self, at: int, document: str, counted: CountedWindows) -> _Parts:
        """Return the parts of a document by its tokens."""
        if counted.fits(document):
            return _Parts([document], [], 1.0)
        if self._long_documents == "error":
            raise UnsupportedInputError(
                f"document {at}, of {len(document)} characters, has more than the "
                f"{self._window_tokens} tokens that the server reads; split it, or set "
                'long_documents="best" to read it in windows'
            )
        spans = counted.split(document, limit=self._settings.windows)
        passages = [Passage(start, end) for start, end in spans]
        end = passages[-1].end
        read = end / len(document) if document[end:].strip() else 1.0
        return _Parts([document[start:end] for start, end in passages], passages, read)

    def _pooled(self, scores: Scores, parts: Sequence[_Parts]) -> Scores:
        """Return the scores of documents from those of their parts."""
        values: list[float] = []
        truncated, read = set[int](), dict[int, float]()
        windows, passages = dict[int, int](), dict[int, Passage]()
        highlights = dict[int, Passage]()
        start = 0
        for at, part in enumerate(parts):
            places = range(start, start + len(part.texts))
            value, best = pool([scores.values[place] for place in places], self._best_windows)
            values.append(value)
            if part.read < 1 or any(place in scores.truncated for place in places):
                truncated.add(at)
            if part.read < 1:
                read[at] = part.read
            if len(places) > 1:
                windows[at] = len(places)
                passages[at] = part.passages[best]
            start = places.stop
        if windows:
            emit(Windowed(len(windows), sum(windows.values())))
        if read:
            emit(Truncated(len(read)))
        for at, (place, shift) in _sent_at_once(parts):  # of these the server may know more
            if place in scores.read:
                read[at] = scores.read[place] * read.get(at, 1.0)
            if place in scores.windows:
                windows[at] = scores.windows[place]
            if place in scores.passages:
                passages[at] = scores.passages[place].moved(shift)
            if place in scores.highlights:
                highlights[at] = scores.highlights[place].moved(shift)
        return replace(
            scores,
            values=tuple(values),
            truncated=frozenset(truncated),
            read=read,
            windows=windows,
            passages=passages,
            highlights=highlights,
        )


class _Parts(NamedTuple):
    """What is sent of a document."""

    texts: list[Document]
    passages: list[Passage]
    """Where each of them stands; none of a document that is sent as it is."""
    read: float
    """The share of the document that they are together."""


def _sent_at_once(parts: Iterable[_Parts]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the documents of one part: where that is among all parts, and where it begins."""
    place = 0
    for at, part in enumerate(parts):
        if len(part.texts) == 1:
            yield at, (place, part.passages[0].start if part.passages else 0)
        place += len(part.texts)


class _Characters(Sequence[tuple[int, int]]):
    """Where each character of a text stands, without a list of a million of them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, at: slice) -> list[tuple[int, int]]: ...
    def __getitem__(self, at: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(at, slice):
            start, stop, _ = at.indices(self._count)
            return [(start, stop)]
        return at, at + 1


def _characters(query: str | Query) -> int:
    if isinstance(query, str):
        return len(query)
    return len(query.text or "") + len(query.instruction or "")


def _is_path(count_tokens: TokenCount) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(count_tokens, str | os.PathLike)


def _is_too_long(error: BackendRejected) -> bool:
    return error.status_code == 413 or bool(_TOO_LONG.search(str(error)))  # noqa: PLR2004
