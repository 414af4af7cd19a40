"""How a reranking ended, for both adapters: scores, or the order that came in."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from rerank_plugins._internal import context as _context
from rerank_plugins._internal.options import unknown
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.backend import check_scores, rank
from rerank_plugins.errors import BackendError, BackendRejected, ConfigError
from rerank_plugins.hooks import FellBack
from rerank_plugins.hooks import outcome_of as word_of

__all__ = ["RERANK_STATUS", "OnError", "Outcome", "check_on_error", "mark", "outcome_of"]

RERANK_STATUS = "rerank_status"
"""Metadata key: `"scored:NAME"` where there was a choice of backends, `"fallback:ERROR"` where
no backend scored and the documents kept their order. Absent if there is nothing to tell."""

OnError: TypeAlias = Literal["raise", "original_order"]
"""What to do when the backend fails."""

_logger = logging.getLogger(__name__)
_may_warn = Throttle()


def check_on_error(given: object) -> None:
    """Check the setting `on_error`; adapters call it when they are built.

    Raises:
        ConfigError: it is none of the choices.
    """
    if given not in get_args(OnError):
        raise ConfigError(unknown("`on_error`", str(given), get_args(OnError)))


@dataclass
class Outcome:
    """What became of `count` documents."""

    count: int
    scores: Sequence[float] | None = None
    """One per document; None if there are none, because the backend failed."""
    status: str | None = None
    """What to write under `RERANK_STATUS`, if anything."""

    def kept(
        self, *, top_n: int | None, min_score: float | None
    ) -> Sequence[tuple[int, float | None]]:
        """Return the index and the score of each document to keep, best first."""
        if self.scores is None:
            return [(index, None) for index in range(self.count)][:top_n]
        ranked = rank(self.scores, top_n=top_n, min_score=min_score)
        return [(item.index, item.score) for item in ranked]


@contextmanager
def outcome_of(count: int, *, on_error: OnError) -> Iterator[Outcome]:
    """Let the block score `count` documents, and learn how it went.

    `on_error="original_order"` takes the failures of the backend. Wrong input, wrong settings,
    refusals, also of the key, and cancellation are raised: there the caller must act.
    """
    outcome = Outcome(count)
    try:
        with _context.scorer() as scorer:
            yield outcome
            given: Sequence[object] = [] if outcome.scores is None else outcome.scores
            outcome.scores = check_scores(given, count)
    except BackendRejected:
        raise
    except BackendError as error:
        if on_error == "raise":
            raise
        outcome.scores = None
        outcome.status = f"fallback:{type(error).__name__}"
        if scorer.tell is not None:
            scorer.tell(FellBack(word_of(error), "original_order"))
        if _may_warn():
            _logger.warning("reranking failed, documents keep their order: %s", error)
    else:
        outcome.status = f"scored:{scorer.name}" if scorer.name else None


def mark(metadata: MutableMapping[str, object], status: str | None) -> None:
    """Write the status; what another reranker wrote is not true any more."""
    metadata.pop(RERANK_STATUS, None)
    if status is not None:
        metadata[RERANK_STATUS] = status
