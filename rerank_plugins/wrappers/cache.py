"""A backend that remembers scores, pair by pair."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Container, Generator, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Literal, TypeAlias, get_args

from rerank_plugins._internal import context as _context
from rerank_plugins._internal.checks import check_number
from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins._internal.options import check_variable
from rerank_plugins.backend import Backend
from rerank_plugins.content import Document, Query, Requests
from rerank_plugins.errors import ConfigError
from rerank_plugins.hooks import CacheLookedUp
from rerank_plugins.hooks._dispatch import dispatcher
from rerank_plugins.scores import Scores, check_scores
from rerank_plugins.wrappers.base import Call, Do, Flow, Step, Wait, WrapperBackend
from rerank_plugins.wrappers.cache_keys import PairHasher, seal, store_key, unseal
from rerank_plugins.wrappers.stores import Store, open_store

__all__ = ["CachedBackend"]

_Pair: TypeAlias = tuple[str | Query, Document]
"""A query and one document."""

_Pairs: TypeAlias = Mapping[bytes, _Pair]
"""Pairs by their digest, in the order in which they were asked for."""

_Scores: TypeAlias = dict[bytes, float]
"""Scores by the digest of their pair."""

_Result: TypeAlias = Literal["hit", "shared", "miss", "damaged"]

_Steps: TypeAlias = Generator[Step, Any, _Scores]

_PLURALS = {"hit": "hits", "miss": "misses"}


class CachedBackend(WrapperBackend):
    """Asks the wrapped backend only for pairs whose score is not known yet.

    A pair is a query and one document, so a changed document costs one score, not all. Equal
    pairs are asked for once, within a call and among concurrent callers of this process. If the
    caller who asks fails or is cancelled, those who wait for it ask themselves.

    Scores come out as they went in, to the last bit. Texts are never stored, only keyed hashes of
    them; stored values are sealed, so that a value which is damaged, or belongs to another pair,
    is a miss.

    Args:
        wrapped: the backend that scores; pointwise, and always the same model.
        store: where scores are kept: a spec for `open_store()`, or a store, which may be shared.
        ttl: seconds for which a score is kept at most; None is as long as there is room. It
            bounds how long a server's change of model goes unnoticed.
        secret_env: the environment variable with the secret of the hashes, read at each call. If
            it is not set, who reads the store can test whether a known pair was scored.

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
    ) -> None:
        super().__init__(wrapped)
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
        self._kept = open_store(store) if isinstance(store, str) else store
        self._name: str | None = None
        self._flights: dict[bytes, _Flight] = {}
        self._last_flight: _Flight | None = None
        self._lock = ForkSafeLock()
        self._counts: dict[_Result, int] = dict.fromkeys(get_args(_Result), 0)

    def flow(self, requests: Requests) -> Flow:
        if not any(len(documents) for _, documents in requests):
            return [Scores((), scale=self.scale) for _ in requests]
        if self._name is None:  # a local backend loads its model to know its revision
            self._name = yield Do(lambda: self.wrapped.name)
        hasher = PairHasher(self._name, self.scale, os.environ.get(self._secret_env, ""))
        rows: list[list[bytes]] = []
        pairs: dict[bytes, _Pair] = {}
        for query, documents in requests:
            rows.append(hasher.digests(query, documents))
            pairs.update(zip(rows[-1], ((query, document) for document in documents), strict=True))
        last_flight = self._last_flight
        scores = yield from self._read(pairs)
        missing = _without(scores, pairs)
        if missing:
            scores |= yield from self._share(missing, last_flight)
        return [
            Scores(
                (scores[digest] for digest in row),
                backend=self._name,
                model=self.model,
                scale=self.scale,
            )
            for row in rows
        ]

    def _share(self, pairs: _Pairs, last_flight: _Flight | None) -> _Steps:
        """Score what nobody else is scoring, then wait for those who score the rest."""
        flight = _Flight()
        others: dict[bytes, _Flight] = {}
        for digest in pairs:
            other = self._flights.setdefault(digest, flight)  # atomic
            if other is not flight and other.is_lost():
                self._flights[digest] = flight
            elif other is not flight:
                others[digest] = other
        scores = yield from self._lead(flight, _without(others, pairs), last_flight)
        for other in dict.fromkeys(others.values()):
            try:
                landed = yield Wait(other.scores, _time_left(), blocking=other.loop is None)
            except TimeoutError:
                continue
            shared = {digest: landed[digest] for digest in others if digest in landed}
            self._count({"shared": len(shared)})
            scores |= shared
        left = _without(scores, pairs)
        return scores | (yield from self._ask(left)) if left else scores

    def _lead(self, flight: _Flight, pairs: _Pairs, last_flight: _Flight | None) -> _Steps:
        """Score pairs for all who want them; whatever happens, nobody waits in vain."""
        scores: _Scores = {}
        try:
            if pairs and self._last_flight is not last_flight:
                # A flight has landed since the store was read, perhaps with these pairs.
                scores = yield from self._read(pairs)
            missing = _without(scores, pairs)
            if missing:
                scores |= yield from self._ask(missing, then=flight.land)
        finally:
            flight.land(scores)
            self._last_flight = flight
            for digest in pairs:
                if self._flights.get(digest) is flight:
                    self._flights.pop(digest, None)
        return scores

    def _ask(self, pairs: _Pairs, then: Callable[[_Scores], None] = lambda _: None) -> _Steps:
        """Ask the wrapped backend, in one call; call `then` with the scores, and store them."""
        self._count({"miss": len(pairs)})
        wanted: dict[str | Query, dict[bytes, Document]] = {}
        for digest, (query, text) in pairs.items():
            wanted.setdefault(query, {})[digest] = text
        requests = [(query, list(texts.values())) for query, texts in wanted.items()]
        answers = yield Call(self.wrapped, requests)
        scores: _Scores = {}
        for texts, answer in zip(wanted.values(), answers, strict=True):
            scores.update(zip(texts, check_scores(answer, len(texts)), strict=True))
        then(scores)
        sealed = {store_key(digest): seal(digest, score) for digest, score in scores.items()}
        yield from self._with_store(lambda: self._kept.set_many(sealed, self._ttl))
        return scores

    def _read(self, digests: Iterable[bytes]) -> _Steps:
        """Return the scores that the store knows."""
        keys = {digest: store_key(digest) for digest in digests}
        values = yield from self._with_store(lambda: self._kept.get_many(list(keys.values())))
        found = {d: value for d, value in zip(keys, values, strict=True) if value is not None}
        scores = {d: score for d, v in found.items() if (score := unseal(d, v)) is not None}
        self._count({"hit": len(scores), "damaged": len(found) - len(scores)})
        return scores

    def _with_store(self, function: Callable[[], Any]) -> Generator[Step, Any, Any]:
        return (yield Do(function)) if self._kept.blocking else function()

    def _count(self, counts: Mapping[_Result, int]) -> None:
        with self._lock:
            for result, count in counts.items():
                self._counts[result] += count
        if (told := dispatcher()) is not None:
            for result, count in counts.items():
                if count:
                    told(CacheLookedUp(self._tier(), result, count))

    def _tier(self) -> str:
        return str(self._kept.describe().get("kind", type(self._kept).__name__))

    def describe(self) -> dict[str, object]:
        counts = {_PLURALS.get(result, result): count for result, count in self._counts.items()}
        mine = {"store": self._kept.describe(), "ttl": self._ttl, **counts}
        return {**self.wrapped.describe(), self.table: mine}

    def to_spec(self) -> dict[str, object]:
        if not isinstance(self._store, str):
            raise ConfigError(
                f"`{type(self._store).__name__}` can't be written as a spec; give `store` as a "
                "string, such as 'memory'"
            )
        return super().to_spec()

    def close(self) -> None:
        self._name = None
        self._kept.close()
        super().close()

    async def aclose(self) -> None:
        self._name = None
        if self._kept.blocking:
            await asyncio.to_thread(self._kept.close)
        else:
            self._kept.close()
        await super().aclose()


class _Flight:
    """One caller's scoring of pairs that others may want too."""

    def __init__(self) -> None:
        self.scores: Future[_Scores] = Future()
        self.loop = _running_loop()
        """The event loop that the scoring needs, if any: who blocks it waits forever."""
        self._pid = os.getpid()

    def land(self, scores: _Scores) -> None:
        """Give those who wait what was scored; the first time counts."""
        if not self.scores.done():
            self.scores.set_result(scores)

    def is_lost(self) -> bool:
        """Whether it can't land: its thread or loop is gone."""
        return self._pid != os.getpid() or (self.loop is not None and not self.loop.is_running())


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _without(known: Container[bytes], pairs: _Pairs) -> _Pairs:
    return {digest: pair for digest, pair in pairs.items() if digest not in known}


def _time_left() -> float | None:
    deadline = _context.deadline()
    return None if deadline == math.inf else max(0.0, deadline - time.monotonic())
