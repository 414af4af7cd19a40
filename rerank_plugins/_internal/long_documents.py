"""What becomes of documents that are longer than a model reads at once: the settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from rerank_plugins._internal.checks import check_choice, check_integer
from rerank_plugins.errors import ConfigError

__all__ = ["MAX_WINDOWS", "LongDocuments", "LongDocumentsMode", "pool"]

LongDocumentsMode: TypeAlias = Literal["best", "truncate", "error"]
"""Read in windows of which the best count, cut, or refused."""

MAX_WINDOWS = 128
"""The most windows of a document by default: 60,000 tokens in windows of 500."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongDocuments:
    """How long documents are scored.

    Raises:
        ConfigError: a setting has an invalid value or type, or another one makes it mean nothing.
    """

    long_documents: LongDocumentsMode = "best"
    """`"best"` reads windows, `"truncate"` the start, `"error"` refuses."""
    best_windows: int = 1
    """How many windows make the score: 1 is the maximum, more the mean of so many best ones."""
    max_windows: int = MAX_WINDOWS
    """The most windows that are read of a document."""
    window_tokens: int | None = None
    """The most tokens of a document in one window; None: as many as fit."""

    def __post_init__(self) -> None:
        check_choice("long_documents", self.long_documents, get_args(LongDocumentsMode))
        check_integer("best_windows", self.best_windows, least=1)
        check_integer("max_windows", self.max_windows, least=1)
        check_integer("window_tokens", self.window_tokens, least=1, optional=True)
        if self.best_windows > self.max_windows:
            raise ConfigError(
                f"`best_windows` is {self.best_windows}, and `max_windows`={self.max_windows} "
                "allows fewer; lower one or raise the other"
            )
        if self.windows > 1:
            return
        is_best = self.long_documents == "best"
        other = "max_windows=1" if is_best else f"long_documents={self.long_documents!r}"
        for name, usual in (("best_windows", 1), ("window_tokens", None)):
            if getattr(self, name) != usual:
                raise ConfigError(
                    f"`{name}` is for windows, and there are none with {other}; leave one of them "
                    "out"
                )

    @property
    def windows(self) -> int:
        """The most windows of a document."""
        return self.max_windows if self.long_documents == "best" else 1

    @property
    def best_part_counts(self) -> bool:
        """Whether the best part of a document makes its score."""
        return self.windows > 1 and self.best_windows == 1

    @property
    def name(self) -> str:
        """What of this makes scores, as a part of a backend's `name`; empty if nothing does."""
        if self.long_documents != "best":
            return "" if self.long_documents == "truncate" else "&long_documents=error"
        best = "" if self.best_windows == 1 else f"&best_windows={self.best_windows}"
        most = "" if self.max_windows == MAX_WINDOWS else f"&max_windows={self.max_windows}"
        size = "" if self.window_tokens is None else f"&window_tokens={self.window_tokens}"
        return f"&long_documents=best{best}{most}{size}"

    def size(self, room: int) -> int:
        """Return how many tokens of a document a window has, where `room` fit."""
        if self.long_documents != "best" or self.window_tokens is None:
            return room
        return min(room, self.window_tokens)


def pool(scores: Sequence[float], best_windows: int) -> tuple[float, int]:
    """Return the score of a document from those of its windows, and which of these is the best.

    It is the mean of the `best_windows` best ones, or of all if there are fewer; so it grows with
    each of them.
    """
    best = max(range(len(scores)), key=scores.__getitem__)
    if best_windows == 1 or len(scores) == 1:
        return scores[best], best
    counted = sorted(scores, reverse=True)[:best_windows]
    mean = math.fsum(counted) / len(counted)
    return min(max(mean, counted[-1]), counted[0]), best  # rounding leaves the range of equal ones
