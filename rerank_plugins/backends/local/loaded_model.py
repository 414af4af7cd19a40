"""A model in use, and the events of its work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.document_events import emit_lengths
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import Engine, EngineStats
from rerank_plugins.errors import ConfigError
from rerank_plugins.hooks import Computed
from rerank_plugins.hooks._dispatch import dispatcher, emit
from rerank_plugins.scores import Scores

__all__ = ["LoadedModel", "Unloaded"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Unloaded:
    """What stays known of a model that was idle, until it is loaded again."""

    name: str
    """The backend's name, which caches rely on."""
    revision: str

    def pinned(self, revision: str | None) -> str | None:
        """Return what to load: the same commit of a hub, whatever is newest there by now."""
        return self.revision if _COMMIT.fullmatch(self.revision) else revision

    def check(self, checkpoint: Checkpoint) -> None:
        """Check that the model is the one that was unloaded.

        Raises:
            ConfigError: its files were changed since; other scores under one name would be wrong
                in every cache.
        """
        if checkpoint.revision != self.revision:
            raise ConfigError(
                f"the files of {checkpoint.model!r} were changed while it was unloaded "
                "(`unload_after`); close the backend, or start the program anew"
            )


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
