"""What a value is kept under, and the seal that proves that a stored one is it."""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, NamedTuple

from rerank_plugins.content import Content, Document, Query
from rerank_plugins.scores import Passage

__all__ = [
    "PairHasher",
    "SealedScore",
    "seal",
    "seal_bytes",
    "store_key",
    "text_digests",
    "unseal",
    "unseal_bytes",
]

_VERSION = b"rerank pair 1"  # another number when the hashed fields or the sealed value change
_TEXT_VERSION = b"rerank text 1"  # as above
_KEY_BYTES = 20
_SEAL_BYTES = 16
_VALUE = struct.Struct("<d?")  # the score, and whether its document was truncated
_FACTS = struct.Struct("<dIqq")  # the share that was read, the windows, and the best passage
_HIGHLIGHT = struct.Struct("<qq")  # the best sentence, where it is known
_SIZES = (*accumulate(part.size for part in (_VALUE, _FACTS, _HIGHLIGHT)),)
_NOTHING = -1
"""Stands for a share or a passage that nobody knows."""
_TAG_BYTES = 7
_NO_STRING = b"\xff" * 8
"""A length that no string has: what follows are the fields of a `Query` or `Content`."""


class PairHasher:
    """Hashes (query, document) pairs of one backend, so that no store ever holds a text.

    The hash is keyed BLAKE2b (RFC 7693) over all that makes a score: the backend's name and
    scale, the query, the document. Each field is preceded by its length, so `("ab", "c")` and
    `("a", "bc")` differ.

    Args:
        name: the backend's `name`.
        scale: the backend's `scale`.
        secret: without it nobody can find out which pairs a store holds, or forge a value.
            May be empty.
    """

    def __init__(self, name: str, scale: str, secret: str) -> None:
        self._start = _hash(_VERSION, secret)
        for field in (name, scale):
            self._start.update(_prefixed(field))

    def digests(self, query: str | Query, documents: Iterable[Document]) -> list[bytes]:
        """Return one digest per document, in order; `store_key` and `seal` each use a part."""
        start = self._start.copy()
        start.update(_encoded(query))
        digests = []
        for document in documents:
            pair = start.copy()
            if isinstance(document, str):  # as `_encoded` has it, without a call for each
                encoded = document.encode()
                pair.update(len(encoded).to_bytes(8, "big"))
                pair.update(encoded)
            else:
                pair.update(_encoded(document))
            digests.append(pair.digest())
        return digests


def text_digests(maker: str, texts: Iterable[str], secret: str) -> list[bytes]:
    """Return one digest per text, as `PairHasher` does per pair.

    Args:
        maker: what makes the values of the texts.
        texts: the texts, in order.
        secret: as that of `PairHasher`.
    """
    start = _hash(_TEXT_VERSION, secret)
    start.update(_prefixed(maker))
    digests = []
    for text in texts:
        own = start.copy()
        own.update(_prefixed(text))
        digests.append(own.digest())
    return digests


def store_key(digest: bytes) -> bytes:
    """Return the 20 bytes under which a store keeps the value of a pair or a text."""
    return digest[:_KEY_BYTES]


def seal_bytes(digest: bytes, value: bytes) -> bytes:
    """Return the bytes to store: a value, and a tag that holds for this text only."""
    return value + _tag(digest, value)


def unseal_bytes(digest: bytes, value: object) -> bytes | None:
    """Return the value in what was stored; None if `seal_bytes` did not make it for this text."""
    if not isinstance(value, bytes) or len(value) < _TAG_BYTES:
        return None
    own, tag = value[:-_TAG_BYTES], value[-_TAG_BYTES:]
    return own if hmac.compare_digest(_tag(digest, own), tag) else None


class SealedScore(NamedTuple):
    """A score, and what is known of its document."""

    score: float
    truncated: bool = False
    """Whether a part of it was not read."""
    read: float | None = None
    """The share that was read, of a truncated one, where it is known."""
    windows: int = 1
    """In how many windows it was read."""
    passage: Passage | None = None
    """The one that made the score, where one did."""
    highlight: Passage | None = None
    """Its best sentence, where the model tells it."""


def seal(digest: bytes, value: SealedScore) -> bytes:
    """Return the bytes to store: a score, its facts, and a tag that holds for this pair only.

    They are 16 of a document that was read at once, 44 of others, and 60 with a highlight.
    """
    packed = _VALUE.pack(value.score, value.truncated)
    if value[2:] != SealedScore(0.0)[2:]:
        start, end = value.passage or (_NOTHING, _NOTHING)
        read = _NOTHING if value.read is None else value.read
        packed += _FACTS.pack(read, value.windows, start, end)
        if value.highlight is not None:
            packed += _HIGHLIGHT.pack(*value.highlight)
    return seal_bytes(digest, packed)


def unseal(digest: bytes, value: object) -> SealedScore | None:
    """Return what was stored of a score; None if `seal` did not make it for this pair."""
    packed = unseal_bytes(digest, value)
    if packed is None or len(packed) not in _SIZES:
        return None
    score, truncated = _VALUE.unpack_from(packed)
    if not math.isfinite(score):
        return None
    if len(packed) == _VALUE.size:
        return SealedScore(score, truncated)
    read, windows, start, end = _FACTS.unpack_from(packed, _VALUE.size)
    has_highlight = len(packed) == _SIZES[-1]
    return SealedScore(
        score,
        truncated,
        None if read == _NOTHING else read,
        windows,
        None if start == _NOTHING else Passage(start, end),
        Passage(*_HIGHLIGHT.unpack_from(packed, _SIZES[1])) if has_highlight else None,
    )


def _hash(version: bytes, secret: str) -> Any:
    return hashlib.blake2b(
        digest_size=_KEY_BYTES + _SEAL_BYTES,
        key=hashlib.blake2b(secret.encode()).digest(),
        person=version,
    )


def _tag(digest: bytes, packed: bytes) -> bytes:
    return hashlib.blake2b(packed, key=digest[_KEY_BYTES:], digest_size=_TAG_BYTES).digest()


def _encoded(value: str | Query | Content) -> bytes:
    """Return bytes that no other query or document has."""
    if isinstance(value, str):
        return _prefixed(value)
    instruction = value.instruction if isinstance(value, Query) else None
    fields = (value.text, value.image, instruction)
    return _NO_STRING + b"".join(b"-" if field is None else _typed(field) for field in fields)


def _typed(field: str | bytes) -> bytes:
    return (b"s" if isinstance(field, str) else b"b") + _prefixed(field)


def _prefixed(field: str | bytes) -> bytes:
    encoded = field.encode() if isinstance(field, str) else field
    return len(encoded).to_bytes(8, "big") + encoded
