"""One call as several requests: cut by what a server takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Part", "split", "to_json"]

_LONGEST_ESCAPE = 6
"""Bytes that one character takes in JSON at most."""
_FRAME = 16
"""Bytes around each document: quotes, a comma, and `{"text":}` where documents are objects."""


class Part(NamedTuple):
    """A run of the documents of a call."""

    start: int
    """The position of its first document in the call."""
    texts: Sequence[str]


def to_json(value: object) -> bytes:
    """Return `value` as the shortest JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def split(part: Part, *, max_documents: int, max_bytes: int) -> list[Part]:
    """Cut `part` into runs that hold neither too many documents nor too many bytes of JSON.

    A document that is too large by itself gets a run of its own.
    """
    texts = part.texts
    most = sum(map(len, texts)) * _LONGEST_ESCAPE + len(texts) * _FRAME
    if most <= max_bytes:  # no need to measure
        starts = list(range(0, len(texts), max_documents))
    else:
        starts, room = [0], max_bytes
        for position, text in enumerate(texts):
            needed = len(to_json(text)) + _FRAME
            room -= needed
            if position > starts[-1] and (room < 0 or position - starts[-1] == max_documents):
                starts.append(position)
                room = max_bytes - needed
    ends = [*starts[1:], len(texts)]
    return [
        Part(part.start + start, texts[start:end]) for start, end in zip(starts, ends, strict=True)
    ]
