"""Vectors of documents in a store that outlives the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backend import TextStore
from rerank_plugins.backends.late_interaction import TextVectors, from_bytes, to_bytes

__all__ = ["LONGEST", "VectorStore"]

LONGEST = 1 << 18
"""Bytes of the longest value: of vectors of 128 numbers, those of 1,985 tokens."""


class VectorStore:
    """Takes vectors from a store, and has those that are missing made and kept.

    Args:
        store: keeps the bytes.
        maker: returns what makes the vectors, the name of the backend, by that of its engine.
    """

    def __init__(self, store: TextStore, maker: Callable[[str], str]) -> None:
        self._store = store
        self._maker = maker
        self._lock = ForkSafeLock()
        self._read = self._made = 0

    def fill(
        self,
        engine: str,
        texts: Sequence[str],
        make: Callable[[Sequence[str]], list[TextVectors]],
    ) -> list[TextVectors]:
        """Return the vectors of each text: one read, one call of `make`, one write.

        Args:
            engine: the name of the engine.
            texts: distinct texts.
            make: makes the vectors of texts, in 8 bits.
        """
        if not texts:
            return []
        maker = self._maker(engine)
        stored = self._store.get_many(maker, texts, longest=LONGEST)
        found = [None if value is None else from_bytes(value) for value in stored]
        missing = [text for text, vectors in zip(texts, found, strict=True) if vectors is None]
        made = dict(zip(missing, make(missing), strict=True)) if missing else {}
        values = {text: to_bytes(vectors) for text, vectors in made.items()}
        if kept := {text: value for text, value in values.items() if len(value) <= LONGEST}:
            self._store.set_many(maker, kept)
        with self._lock:
            self._read += len(texts) - len(missing)
            self._made += len(missing)
        return [
            made[text] if vectors is None else vectors
            for text, vectors in zip(texts, found, strict=True)
        ]

    def describe(self) -> dict[str, object]:
        """Return how many documents' vectors were read, and how many were made."""
        return {"vectors_from_store": self._read, "vectors_made": self._made}
