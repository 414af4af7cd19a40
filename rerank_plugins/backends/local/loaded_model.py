"""A model in use, and the events of its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.document_events import emit_lengths
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import Engine, EngineStats
from rerank_plugins.hooks import Computed
from rerank_plugins.hooks._dispatch import dispatcher, emit
from rerank_plugins.scores import Scores

__all__ = ["LoadedModel"]


@dataclass(eq=False)
class LoadedModel:
    """A checkpoint and the engine that runs it."""

    checkpoint: Checkpoint
    engine: Engine
    reason: str
    """Why this engine was chosen."""
    users: int = 0
    """Calls in progress; guarded by the backend's lock."""
    _emitted: EngineStats = field(default_factory=EngineStats)
    _lock: ForkSafeLock = field(default_factory=ForkSafeLock)

    def emit_events(self, results: Sequence[Scores]) -> None:
        """Emit what a call did: the documents it cut, and what was computed since the last call.

        What concurrent calls computed is emitted by the first that ends.
        """
        with self._lock:
            before, now = self._emitted, self.engine.stats()
            self._emitted = now
        if dispatcher() is None:
            return
        emit_lengths(results)
        tokens, padding = now.tokens - before.tokens, now.padding - before.padding
        emit(Computed(self.checkpoint.model, tokens, padding, self.engine.memory()))
