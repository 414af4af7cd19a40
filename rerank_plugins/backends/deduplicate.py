"""Equal documents of a request: scored once."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["deduplicate"]


def deduplicate(documents: Sequence[str]) -> tuple[list[str], Sequence[int]]:
    """Return the distinct documents, and the position of each document among them."""
    positions: dict[str, int] = {}
    for document in documents:
        positions.setdefault(document, len(positions))
    if len(positions) == len(documents):
        return list(positions), range(len(documents))
    return list(positions), [positions[document] for document in documents]
