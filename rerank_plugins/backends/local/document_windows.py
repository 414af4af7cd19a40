"""Long documents in windows of a model's own tokens, and what is known of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins._internal.long_documents import LongDocuments
from rerank_plugins._internal.windows import Window, split
from rerank_plugins.errors import UnsupportedInputError
from rerank_plugins.scores import Passage

__all__ = ["CutLog", "DocumentWindows", "WindowCollector", "WindowedText", "read_windows"]

_log = logging.getLogger(__name__)

_LETTERS_PER_TOKEN = 16
"""Text with longer tokens is rare; of the rest, what no window reads need not be tokenised."""


class WindowedText(NamedTuple):
    """The windows of a text, and the ids of all its tokens that they need."""

    ids: Sequence[int]
    windows: Sequence[Window]
    read: float
    """The share of the text that they cover, 0 to 1."""


def read_windows(tokenizer: Any, text: str, size: int, *, limit: int) -> WindowedText:
    """Return the windows of a text.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        text: one with more than `size` tokens.
        size: the most tokens of a window.
        limit: the most windows.
    """
    most = size * limit
    length = (most + 1) * _LETTERS_PER_TOKEN
    while True:
        encoding = tokenizer.encode(text[:length], add_special_tokens=False)
        if length >= len(text) or len(encoding.ids) > most:
            break
        length *= 4
    ids, spans = encoding.ids[: most + 1], encoding.offsets[: most + 1]
    windows = split(text, spans, size, limit=limit)
    whole = length >= len(text) and len(ids) == len(encoding.ids) and windows[-1].last == len(ids)
    return WindowedText(ids, windows, 1.0 if whole else windows[-1].end / len(text))


@dataclass(frozen=True, slots=True)
class DocumentWindows:
    """Which pairs are windows of the same document, of documents in their order."""

    counts: Sequence[int]
    """How many pairs each document has."""
    passages: Sequence[Passage | None]
    """The text of each pair in its document; None: all of it."""
    read: Mapping[int, float] = field(default_factory=dict)
    """Document → the share of it that was read, of those where it is less than all."""
    best_windows: int = 1
    """How many of the best windows make the score."""


class WindowCollector:
    """Collects what becomes `DocumentWindows`, document by document."""

    def __init__(self, settings: LongDocuments) -> None:
        self._settings = settings
        self._counts: list[int] = []
        self._passages: list[Passage | None] = []
        self._read: dict[int, float] = {}
        self._any = False

    def whole(self, read: float = 1.0) -> None:
        """Add a document that is one pair."""
        if read < 1:
            self._read[len(self._counts)] = read
            self._any = True
        self._counts.append(1)
        self._passages.append(None)

    def windowed(self, text: WindowedText) -> None:
        """Add a document that was split."""
        if text.read < 1:
            self._read[len(self._counts)] = text.read
        self._any = True
        self._counts.append(len(text.windows))
        self._passages += [Passage(window.start, window.end) for window in text.windows]

    def result(self) -> DocumentWindows | None:
        """Return what was added; None if each document is one pair, and no more is known."""
        if not self._any:
            return None
        return DocumentWindows(
            self._counts, self._passages, self._read, self._settings.best_windows
        )


class CutLog:
    """Refuses or counts documents that are too long, and logs the first of each sort.

    Safe to share between threads.

    Args:
        settings: what becomes of long documents.
        max_length: the most tokens of a document in all of its windows; None: no such limit.
    """

    def __init__(self, settings: LongDocuments, *, max_length: int | None = None) -> None:
        self._settings = settings
        self._max_length = max_length
        self._lock = ForkSafeLock()
        self._truncated = self._windowed = 0

    def describe(self) -> dict[str, object]:
        """Return how many documents were cut or read in windows so far."""
        return {
            "truncated_documents": self._truncated,
            "windowed_documents": self._windowed,
        }

    def check(self, tokens: int, room: int) -> None:
        """Refuse a document of more tokens than fit, if that is the setting.

        Raises:
            UnsupportedInputError: it is refused.
        """
        if self._settings.long_documents == "error" and tokens > room:
            raise UnsupportedInputError(
                f"a document has {tokens} tokens, and the model reads {room} of it at once; split "
                "it, raise `max_length` if the model can read more, or set "
                'long_documents="best" to read it in windows'
            )

    def count(self, *, windowed: bool, read: float) -> None:
        """Count a document that was read in windows or in part."""
        with self._lock:
            self._windowed += windowed
            self._truncated += read < 1
            is_first = read < 1 and self._truncated == 1
        if not is_first:
            return
        if windowed:
            _log.warning(
                "a document was read to %.0f %% only: it has more than %s "
                "(logged once; `describe()` counts, `Scores.read` says which)",
                100 * read,
                f"`max_windows`={self._settings.max_windows} windows"
                if self._max_length is None
                else f"`max_length`={self._max_length} tokens",
            )
        else:
            _log.warning(
                "a document was cut to %.0f %%; set long_documents='best' to read long documents "
                "in windows (logged once; `describe()` counts, `Scores.read` says which)",
                100 * read,
            )
