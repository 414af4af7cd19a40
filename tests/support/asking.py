"""The sync and the async way to score, for tests of both; `FakeBackend` gives `[1.0, 0.0]`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rerank_plugins import Backend

__all__ = ["ascore", "score"]

_DOCUMENTS = ("q", "r")


def score(backend: Backend, documents: Sequence[str] = _DOCUMENTS) -> list[float]:
    return backend.score("q", documents)


def ascore(backend: Backend, documents: Sequence[str] = _DOCUMENTS) -> list[float]:
    return asyncio.run(backend.ascore("q", documents))
