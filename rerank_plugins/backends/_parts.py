"""One call as several requests: cut by what a server takes."""

from __future__ import annotations

import json
from collections.abc import Sequence

__all__ = ["split", "to_json"]

_LONGEST_ESCAPE = 6
"""Bytes that one character takes in JSON at most."""
_FRAME = 16
"""Bytes around each document: quotes, a comma, and `{"text":}` where documents are objects."""


def to_json(value: object) -> bytes:
    """Return `value` as the shortest JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def split(texts: Sequence[str], *, max_documents: int, max_bytes: int) -> list[Sequence[str]]:
    """Cut `texts` into runs that hold neither too many documents nor too many bytes of JSON.

    A document that is too large by itself gets a run of its own.
    """
    most = sum(map(len, texts)) * _LONGEST_ESCAPE + len(texts) * _FRAME
    if most <= max_bytes:  # no need to measure
        starts = range(0, len(texts), max_documents)
        return [texts[start : start + max_documents] for start in starts]
    runs: list[Sequence[str]] = []
    start, room = 0, max_bytes
    for position, text in enumerate(texts):
        needed = len(to_json(text)) + _FRAME
        room -= needed
        if position > start and (room < 0 or position - start == max_documents):
            runs.append(texts[start:position])
            start, room = position, max_bytes - needed
    return [*runs, texts[start:]]
