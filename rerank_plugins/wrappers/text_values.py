"""What a model made of single texts, in the store of a cache."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rerank_plugins.wrappers.cache_keys import seal_bytes, store_key, text_digests, unseal_bytes
from rerank_plugins.wrappers.stores import Store

__all__ = ["TextValues"]

_SEAL = 16
"""Bytes that a sealed value may have beyond the value."""


@dataclass(frozen=True)
class TextValues:
    """A `TextStore` over the store of a cache: keyed by hashes, and every value sealed."""

    store: Store
    """Where the values are."""
    ttl: float | None
    """Seconds that a value is kept at most; None: as long as there is room."""
    secret_env: str
    """The environment variable with the secret of the hashes, read at each call."""

    def get_many(self, maker: str, texts: Sequence[str], *, longest: int) -> list[bytes | None]:
        digests = self._digests(maker, texts)
        values = self.store.get_many(list(map(store_key, digests)), longest=longest + _SEAL)
        return [
            None if value is None else unseal_bytes(digest, value)
            for digest, value in zip(digests, values, strict=True)
        ]

    def set_many(self, maker: str, values: Mapping[str, bytes]) -> None:
        digests = self._digests(maker, list(values))
        sealed = {
            store_key(digest): seal_bytes(digest, value)
            for digest, value in zip(digests, values.values(), strict=True)
        }
        self.store.set_many(sealed, self.ttl)

    def _digests(self, maker: str, texts: Sequence[str]) -> list[bytes]:
        return text_digests(maker, texts, os.environ.get(self.secret_env, ""))
