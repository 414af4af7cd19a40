"""Long documents in parts, so that no batch waits for all windows of one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from rerank_plugins.errors import DocumentQuarantined
from rerank_plugins.scheduler.cost import LETTERS_PER_TOKEN
from rerank_plugins.scheduler.quarantine import refusal
from rerank_plugins.scores import Passage, Scores

__all__ = ["IN_PARTS", "DocumentParts"]

IN_PARTS = "+parts"
"""The end of the name of what scores documents in parts: their windows are others, and so may be
their scores."""

_LONG, _PART = 4, 2
"""A document of more than four times the model's length comes in parts of at most twice that."""
_OVERLAP = 8
"""Parts share an eighth of the model's length, as windows do."""
_TRIES = 4
_LOOKED_AT = 512
"""In how many characters the border of a part is looked for: a body of 4 MB has 1,000 parts."""

_ENDS = (". ", "! ", "? ", "\n", *"。！？｡؟۔।॥")
"""Where a sentence or a line ends."""


class _Documents(NamedTuple):
    """Texts to score, and which parts of which documents they are."""

    texts: list[str]
    parts: list[list[Passage]]
    """Those of each document, in order; a single one is all of it."""
    lengths: list[int]
    """The characters of each document."""

    def refusal(self, error: DocumentQuarantined) -> DocumentQuarantined:
        """Return the error for the document whose part is refused."""
        text = error.document or 0
        return refusal(bisect_right([*accumulate(map(len, self.parts))], text))

    def join(self, scores: Scores) -> Scores:
        """Return the scores of the documents: those of their best parts."""
        if len(self.texts) == len(self.parts):
            return scores
        values: list[float] = []
        truncated: list[int] = []
        read: dict[int, float] = {}
        windows: dict[int, int] = {}
        passages: dict[int, Passage] = {}
        highlights: dict[int, Passage] = {}
        first = 0
        for document, parts in enumerate(self.parts):
            texts = range(first, first + len(parts))
            first = texts.stop
            best = max(texts, key=scores.__getitem__)
            values.append(scores[best])
            number = sum(scores.windows.get(text, 1) for text in texts)
            if number > 1:
                windows[document] = number
            start, end = parts[best - texts.start]
            passage = scores.passages.get(best)
            if passage is not None:
                passages[document] = passage.moved(start)
                if best in scores.highlights:
                    highlights[document] = scores.highlights[best].moved(start)
            elif len(parts) > 1:
                passages[document] = Passage(start, end)
            share = self._read(document, texts, scores)
            if share is not None:
                read[document] = share
            if parts[-1].end < self.lengths[document] or not scores.truncated.isdisjoint(texts):
                truncated.append(document)
        return Scores(
            values,
            backend=scores.backend and f"{scores.backend}{IN_PARTS}",
            label=scores.label,
            model=scores.model,
            scale=scores.scale,
            truncated=truncated,
            read=read,
            windows=windows,
            passages=passages,
            highlights=highlights,
            cached=scores.cached,
            usage=scores.usage,
        )

    def _read(self, document: int, texts: range, scores: Scores) -> float | None:
        """Return the share of a document that was read, where it is less than all and known."""
        length, parts = self.lengths[document], self.parts[document]
        if len(parts) == 1:
            return scores.read.get(texts.start)
        unread = length - parts[-1].end
        for text, part in zip(texts, parts, strict=True):
            if text in scores.truncated:
                if text not in scores.read:
                    return None
                unread += round((1 - scores.read[text]) * (part.end - part.start))
        return max(0.0, 1 - unread / length) if unread else None


class DocumentParts:
    """Splits documents that take a model many windows, and joins the scores of the parts.

    The best window makes the score of a document, and so it is that of the best part. The windows
    of a part are not always those of the whole document.

    Args:
        length: how many tokens the model reads at once.
        longest: how many it reads of a document, in windows of which the best counts. Where these
            are few, no document is split.
    """

    def __init__(self, length: int, longest: int) -> None:
        self._longest = length * _LONG
        self._part = length * _PART
        self._overlap = max(1, length // _OVERLAP)
        self._most = longest // self._part
        self._splits = longest > self._longest

    def split(self, texts: Sequence[str]) -> _Documents:
        """Return the texts to score in place of documents."""
        lengths = [len(text) for text in texts]
        parts = [[*self._parts(text)] for text in texts]
        if all(len(spans) == 1 for spans in parts):
            return _Documents(list(texts), parts, lengths)
        split = [
            text if len(spans) == 1 else text[start:end]
            for text, spans in zip(texts, parts, strict=True)
            for start, end in spans
        ]
        return _Documents(split, parts, lengths)

    def _parts(self, text: str) -> Iterator[Passage]:
        # Most are short, and need no look at their letters.
        if (
            not self._splits
            or len(text) <= self._longest
            or _fitting(text, 0, self._longest) == len(text)
        ):
            yield Passage(0, len(text))
            return
        start = 0
        for _ in range(self._most):
            end = start + _fitting(text, start, self._part)
            if end < len(text):
                end = _border(text, end - min(_LOOKED_AT, (end - start) // 4), end)
            yield Passage(start, end)
            if end == len(text):
                return
            shared = min(self._overlap * LETTERS_PER_TOKEN, _LOOKED_AT, (end - start) // 4)
            start = _border(text, end - shared, end, first=True)


def _fitting(text: str, start: int, tokens: int) -> int:
    """Return how many characters from `start` on have at most so many tokens, about."""
    length = tokens * LETTERS_PER_TOKEN
    for _ in range(_TRIES):
        piece = text[start : start + length]
        plain = len(piece.encode("ascii", "ignore"))
        cost = plain / LETTERS_PER_TOKEN + len(piece) - plain
        if cost <= tokens:
            return len(piece)
        length = max(tokens, int(len(piece) * tokens / cost))
    return min(tokens, len(text) - start)


def _border(text: str, lowest: int, highest: int, *, first: bool = False) -> int:
    """Return the last (or first) place between two at which a sentence begins, or else a word."""
    for ends in (_ENDS, (" ",)):
        find = text.find if first else text.rfind
        found = [at + len(end) for end in ends if (at := find(end, lowest, highest)) >= 0]
        if found:
            return min(found) if first else max(found)
    return lowest if first else highest
