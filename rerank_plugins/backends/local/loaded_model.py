"""A model in use, and what hooks hear of its work."""

from __future__ import annotations

from dataclasses import dataclass, field

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import Engine, EngineStats
from rerank_plugins.hooks import Computed, Truncated
from rerank_plugins.hooks._dispatch import dispatcher, emit

__all__ = ["LoadedModel"]


@dataclass(eq=False)
class LoadedModel:
    """A model in use."""

    checkpoint: Checkpoint
    engine: Engine
    reason: str
    """Why this engine."""
    users: int = 0
    """Calls in progress; changed under the backend's lock."""
    _told: EngineStats = field(default_factory=EngineStats)
    _lock: ForkSafeLock = field(default_factory=ForkSafeLock)

    def emit_events(self) -> None:
        """Tell those who listen what was done since the last time.

        What calls side by side have done is told by the first that ends.
        """
        with self._lock:
            before, now = self._told, self.engine.stats()
            self._told = now
        if dispatcher() is None:
            return
        if now.truncated_pairs > before.truncated_pairs:
            emit(Truncated(now.truncated_pairs - before.truncated_pairs))
        tokens, padding = now.tokens - before.tokens, now.padding - before.padding
        emit(Computed(self.checkpoint.model, tokens, padding, self.engine.memory()))
