"""Splits one call into requests that a server takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from rerank_plugins.scores import Scores

__all__ = ["Part", "merge_parts", "split", "to_json"]

_MAX_BYTES_PER_CHARACTER = 6
"""In JSON, where `\\u0000` is the longest escape."""
_OVERHEAD = 16
"""Bytes around each document: quotes, a comma, and `{"text":}` where documents are objects."""


class Part(NamedTuple):
    """A run of the documents of a call."""

    start: int
    """The position of its first document in the call."""
    texts: Sequence[str]


def to_json(value: object) -> bytes:
    """Return `value` as the shortest JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def split(part: Part, *, max_documents: int, max_bytes: int, overhead: int = 0) -> list[Part]:
    """Split `part` into runs within both limits; a document that is too large gets its own run.

    Args:
        part: what to split.
        max_documents: maximum documents in a run.
        max_bytes: maximum bytes of JSON in a run.
        overhead: bytes that each document adds beside its own text.
    """
    texts, overhead = part.texts, overhead + _OVERHEAD
    upper_bound = sum(map(len, texts)) * _MAX_BYTES_PER_CHARACTER + len(texts) * overhead
    if upper_bound <= max_bytes:  # no need to measure
        starts = list(range(0, len(texts), max_documents))
    else:
        starts, room = [0], max_bytes
        for position, text in enumerate(texts):
            size = len(to_json(text)) + overhead
            room -= size
            if position > starts[-1] and (room < 0 or position - starts[-1] == max_documents):
                starts.append(position)
                room = max_bytes - size
    ends = [*starts[1:], len(texts)]
    return [
        Part(part.start + start, texts[start:end]) for start, end in zip(starts, ends, strict=True)
    ]


def merge_parts(count: int, parts: Sequence[Part], scores: Sequence[Scores]) -> Scores:
    """Join the scores of parts that follow each other and hold `count` documents together."""
    if len(scores) == 1:
        return scores[0]
    first = parts[0].start if parts else 0
    positions = [range(part.start - first, part.start - first + len(part.texts)) for part in parts]
    return Scores.merge(count, zip(positions, scores, strict=True))
