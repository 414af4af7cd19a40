"""The events of documents that were cut or read in windows."""

from __future__ import annotations

from collections.abc import Sequence

from rerank_plugins.hooks import Truncated, Windowed
from rerank_plugins.hooks._dispatch import dispatcher, emit
from rerank_plugins.scores import Scores

__all__ = ["emit_lengths"]


def emit_lengths(results: Sequence[Scores]) -> None:
    """Emit how many documents were cut, and how many were read in windows."""
    if dispatcher() is None:
        return
    truncated = sum(len(scores.truncated) for scores in results)
    if truncated:
        emit(Truncated(truncated))
    windows = [count for scores in results for count in scores.windows.values()]
    if windows:
        emit(Windowed(len(windows), sum(windows)))
