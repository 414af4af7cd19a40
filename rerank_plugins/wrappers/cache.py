"""A backend that remembers scores, pair by pair."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Container, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from rerank_plugins._internal import context as _context
from rerank_plugins._internal.checks import check_boolean, check_number
from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins._internal.options import check_variable
from rerank_plugins.backend import Backend
from rerank_plugins.content import CheckedDocuments, Document, Query, Requests
from rerank_plugins.errors import ConfigError
from rerank_plugins.hooks import CacheLookedUp
from rerank_plugins.hooks._dispatch import dispatcher
from rerank_plugins.scores import Scores
from rerank_plugins.wrappers.base import Blocking, Call, Flow, Step, Wait, WrapperBackend
from rerank_plugins.wrappers.cache_keys import PairHasher, SealedScore, seal, store_key, unseal
from rerank_plugins.wrappers.stores import Store, open_store
from rerank_plugins.wrappers.text_values import TextValues

__all__ = ["CachedBackend"]

_Pair: TypeAlias = tuple[str | Query, Document]
"""A query and one document."""

_Pairs: TypeAlias = Mapping[bytes, _Pair]
"""Pairs by their digest, in the order of the requests."""


class _Entry(NamedTuple):
    """The score of a pair: one of several that were read or scored together."""

    scores: Scores
    position: int
    cached: bool
    """Whether another call has scored it."""


_Entries: TypeAlias = dict[bytes, _Entry]
"""Scores by the digest of their pair."""

_Result: TypeAlias = Literal["hit", "shared", "miss", "damaged"]

_Steps: TypeAlias = Generator[Step, Any, _Entries]

_PLURALS = {"hit": "hits", "miss": "misses"}


class CachedBackend(WrapperBackend):
    """Calls the wrapped backend only for pairs whose score is not in the store.

    A pair is a query and one document, so a changed document costs one score, not all. Equal
    pairs are scored once, within a call and among concurrent callers of this process. If the
    caller that scores them fails or is cancelled, those that wait for it score them themselves.

    Scores come out as they went in, to the last bit, and so does what is known of each document:
    whether it was truncated, its windows and its best passage. Texts are never stored, only keyed
    hashes of them; stored values are sealed, so a value that is damaged, or belongs to another
    pair, is a miss.

    A model that reads each document alone (late interaction, embeddings) keeps the vectors of
    documents in the store, too, in 8 bits, so that a new query about them costs a small product,
    also after a restart and between processes that share the store.

    Args:
        wrapped: the backend that scores; pointwise, and always the same model.
        store: where scores are kept: a spec for `open_store()`, or a store, which may be shared.
        ttl: how many seconds a score is kept at most; None is as long as there is room. It bounds
            how long a server's change of model goes unnoticed.
        secret_env: the environment variable with the secret of the hashes, read at each call. If
            it is not set, whoever reads the store can test whether a pair was scored.
        vectors: False keeps scores only; vectors then have the precision of the model.

    Raises:
        ConfigError: `wrapped` is not `cacheable`, or an option is malformed.
        MissingDependencyError: the store needs an extra that is not installed.
    """

    table = "cache"

    def __init__(
        self,
        wrapped: Backend,
        *,
        store: str | Store = "memory",
        ttl: float | None = 86_400.0,
        secret_env: str = "RERANK_CACHE_KEY",  # noqa: S107  # the name of the variable
        vectors: bool = True,
    ) -> None:
        super().__init__(wrapped)
        check_boolean("vectors", vectors)
        if not wrapped.cacheable:
            raise ConfigError(
                f"the scores of {wrapped!r} can't be cached: they depend on more than the query "
                "and the document; put the cache around the backends inside, if there are any"
            )
        check_number("ttl", ttl, above=0, unit="seconds", optional=True)
        check_variable("secret_env", secret_env, "RERANK_CACHE_KEY")
        if not isinstance(store, str | Store):
            raise ConfigError(f"`store` must be a spec such as 'memory', or a store, not {store!r}")
        self._store = store
        self._ttl = ttl
        self._secret_env = secret_env
        self._vectors = vectors
        self._opened = open_store(store) if isinstance(store, str) else store
        if vectors:
            values = TextValues(self._opened, ttl, secret_env)
            self._children = (wrapped.with_text_store(values),)
        self._name: str | None = None
        self._in_flight: dict[bytes, _InFlight] = {}
        self._last_finished: _InFlight | None = None
        self._lock = ForkSafeLock()
        self._counts: dict[_Result, int] = dict.fromkeys(get_args(_Result), 0)

    def flow(self, requests: Requests) -> Flow:
        if not any(documents for _, documents in requests):
            return [Scores((), scale=self.scale) for _ in requests]
        name = self._name  # `close` may forget it meanwhile
        if name is None:  # a local backend loads its model to know its revision
            name = self._name = yield Blocking(lambda: self.wrapped.name)
        hasher = PairHasher(name, self.scale, os.environ.get(self._secret_env, ""))
        rows: list[list[bytes]] = []
        pairs: dict[bytes, _Pair] = {}
        for query, documents in requests:
            rows.append(hasher.digests(query, documents))
            pairs.update(zip(rows[-1], [(query, document) for document in documents], strict=True))
        last_finished = self._last_finished
        entries = yield from self._read(pairs)
        missing = _without(entries, pairs)
        if missing:
            entries |= yield from self._share(missing, last_finished)
        return [
            scores if row else Scores((), scale=self.scale)
            for row, scores in zip(rows, _assembled(rows, entries), strict=True)
        ]

    def _share(self, pairs: _Pairs, last_finished: _InFlight | None) -> _Steps:
        """Score what no other caller is scoring, then wait for those that score the rest."""
        own = _InFlight()
        others: dict[bytes, _InFlight] = {}
        for digest in pairs:
            other = self._in_flight.setdefault(digest, own)  # atomic
            if other is not own and other.is_lost():
                self._in_flight[digest] = own
            elif other is not own:
                others[digest] = other
        entries = yield from self._lead(own, _without(others, pairs), last_finished)
        for other in dict.fromkeys(others.values()):
            try:
                finished = yield Wait(other.entries, _time_left(), blocking=other.loop is None)
            except TimeoutError:
                continue
            shared = {
                digest: finished[digest]._replace(cached=True)
                for digest in others
                if digest in finished
            }
            self._count({"shared": len(shared)})
            entries |= shared
        left = _without(entries, pairs)
        return entries | (yield from self._score(left)) if left else entries

    def _lead(self, own: _InFlight, pairs: _Pairs, last_finished: _InFlight | None) -> _Steps:
        """Score pairs for all callers that need them; if that fails, release those that wait."""
        entries: _Entries = {}
        try:
            if pairs and self._last_finished is not last_finished:
                # Another caller has finished since the store was read, perhaps with these pairs.
                entries = yield from self._read(pairs)
            missing = _without(entries, pairs)
            if missing:
                entries |= yield from self._score(missing, then=own.finish)
        finally:
            own.finish(entries)
            self._last_finished = own
            for digest in pairs:
                if self._in_flight.get(digest) is own:
                    self._in_flight.pop(digest, None)
        return entries

    def _score(self, pairs: _Pairs, then: Callable[[_Entries], None] = lambda _: None) -> _Steps:
        """Score pairs in one call; pass the scores to `then`, and store them."""
        self._count({"miss": len(pairs)})
        by_query: dict[str | Query, dict[bytes, Document]] = {}
        for digest, (query, document) in pairs.items():
            by_query.setdefault(query, {})[digest] = document
        requests = [
            (query, CheckedDocuments(query, documents.values()))
            for query, documents in by_query.items()
        ]
        results: list[Scores] = yield Call(self.wrapped, requests)
        entries = {
            digest: _Entry(scores, position, cached=False)
            for documents, scores in zip(by_query.values(), results, strict=True)
            for position, digest in enumerate(documents)
        }
        then(entries)
        sealed = {
            store_key(digest): seal(digest, _sealed(scores, position))
            for digest, (scores, position, _) in entries.items()
        }
        yield from self._with_store(lambda: self._opened.set_many(sealed, self._ttl))
        return entries

    def _read(self, digests: Iterable[bytes]) -> _Steps:
        """Return the scores that the store has."""
        keys = {digest: store_key(digest) for digest in digests}
        values = yield from self._with_store(lambda: self._opened.get_many(list(keys.values())))
        present = {d: value for d, value in zip(keys, values, strict=True) if value is not None}
        hits = {d: hit for d, value in present.items() if (hit := unseal(d, value)) is not None}
        self._count({"hit": len(hits), "damaged": len(present) - len(hits)})
        scores = Scores(
            [hit.score for hit in hits.values()],
            backend=self._name,
            label=self.label,
            model=self.model,
            scale=self.scale,
            truncated=[place for place, hit in enumerate(hits.values()) if hit.truncated],
            read={at: hit.read for at, hit in enumerate(hits.values()) if hit.read is not None},
            windows={at: hit.windows for at, hit in enumerate(hits.values()) if hit.windows > 1},
            passages={
                at: hit.passage for at, hit in enumerate(hits.values()) if hit.passage is not None
            },
            highlights={
                at: hit.highlight
                for at, hit in enumerate(hits.values())
                if hit.highlight is not None
            },
            cached=len(hits),
        )
        return {digest: _Entry(scores, place, True) for place, digest in enumerate(hits)}

    def _with_store(self, function: Callable[[], Any]) -> Generator[Step, Any, Any]:
        return (yield Blocking(function)) if self._opened.blocking else function()

    def _count(self, counts: Mapping[_Result, int]) -> None:
        with self._lock:
            for result, count in counts.items():
                self._counts[result] += count
        if (dispatch := dispatcher()) is not None:
            for result, count in counts.items():
                if count:
                    dispatch(CacheLookedUp(self._tier(), result, count))

    def _tier(self) -> str:
        return str(self._opened.describe().get("kind", type(self._opened).__name__))

    def describe(self) -> dict[str, object]:
        counts = {_PLURALS.get(result, result): count for result, count in self._counts.items()}
        own = {"store": self._opened.describe(), "ttl": self._ttl, **counts}
        return {**self.wrapped.describe(), self.table: own}

    def to_spec(self) -> dict[str, object]:
        if not isinstance(self._store, str):
            raise ConfigError(
                f"`{type(self._store).__name__}` can't be written as a spec; give `store` as a "
                "string, such as 'memory'"
            )
        return super().to_spec()

    def close(self) -> None:
        self._name = None
        self._opened.close()
        super().close()

    async def aclose(self) -> None:
        self._name = None
        if self._opened.blocking:
            await asyncio.to_thread(self._opened.close)
        else:
            self._opened.close()
        await super().aclose()


class _InFlight:
    """Pairs that one caller is scoring, and that others may wait for."""

    def __init__(self) -> None:
        self.entries: Future[_Entries] = Future()
        self.loop = _running_loop()
        """The event loop that the scoring needs, if any: a caller that blocks it deadlocks."""
        self._process_id = os.getpid()

    def finish(self, entries: _Entries) -> None:
        """Pass the scores to the callers that wait; only the first call counts."""
        if not self.entries.done():
            self.entries.set_result(entries)

    def is_lost(self) -> bool:
        """Whether it can't finish: its thread or loop is gone."""
        is_foreign = self._process_id != os.getpid()
        return is_foreign or (self.loop is not None and not self.loop.is_running())


def _sealed(scores: Scores, position: int) -> SealedScore:
    return SealedScore(
        scores.values[position],
        position in scores.truncated,
        scores.read.get(position),
        scores.windows.get(position, 1),
        scores.passages.get(position),
        scores.highlights.get(position),
    )


def _assembled(rows: Iterable[Sequence[bytes]], entries: _Entries) -> list[Scores]:
    """Return the scores of each row; what scoring took is a fact of the first that needs it."""
    counted: set[int] = set()
    return [_row(row, entries, counted) for row in rows]


def _row(row: Sequence[bytes], entries: _Entries, counted: set[int]) -> Scores:
    parts: dict[int, tuple[Scores, list[int], list[int], bool]] = {}
    for place, digest in enumerate(row):
        scores, position, cached = entries[digest]
        part = parts.get(id(scores))
        if part is None:
            part = parts[id(scores)] = (scores, [], [], cached)
        part[1].append(place)
        part[2].append(position)
    merged = []
    for scores, places, positions, cached in parts.values():
        is_counted = cached or id(scores) in counted
        counted.add(id(scores))
        is_whole = positions == [*range(len(scores.values))]
        taken = scores if is_whole else scores.take(positions)
        own_cached = len(places) if cached else 0 if is_counted else taken.cached
        own_usage = None if is_counted else taken.usage
        if (own_cached, own_usage) != (taken.cached, taken.usage):
            taken = replace(taken, cached=own_cached, usage=own_usage)
        merged.append((places, taken))
    if len(merged) == 1:  # in the order of the row already
        return merged[0][1]
    return Scores.merge(len(row), merged)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _without(excluded: Container[bytes], pairs: _Pairs) -> _Pairs:
    return {digest: pair for digest, pair in pairs.items() if digest not in excluded}


def _time_left() -> float | None:
    deadline = _context.deadline()
    return None if deadline == math.inf else max(0.0, deadline - time.monotonic())
