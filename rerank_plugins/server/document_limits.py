"""Documents cut to the length that a request asks for, as clients of Cohere and Jina do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rerank_plugins.scheduler.cost import LETTERS_PER_TOKEN
from rerank_plugins.scores import Scores

__all__ = ["cut_documents", "with_cuts"]


def cut_documents(texts: Sequence[str], tokens: int | None) -> tuple[list[str], dict[int, float]]:
    """Return texts of so many tokens at most, and the share that is left of those that are cut.

    The server has no tokenizer of every backend, so tokens are estimated.

    Args:
        texts: the texts.
        tokens: the most tokens of each; None leaves them as they are.
    """
    if tokens is None:
        return list(texts), {}
    kept = [_start(text, tokens) for text in texts]
    shares = {
        at: len(part) / len(text)
        for at, (part, text) in enumerate(zip(kept, texts, strict=True))
        if len(part) < len(text)
    }
    return kept, shares


def with_cuts(scores: Scores, shares: dict[int, float]) -> Scores:
    """Return scores that tell what was cut before, too."""
    if not shares:
        return scores
    read = {**scores.read, **{at: own * scores.read.get(at, 1.0) for at, own in shares.items()}}
    return replace(scores, truncated=scores.truncated | shares.keys(), read=read)


def _start(text: str, tokens: int) -> str:
    """Return the start of a text, whole characters."""
    room = tokens * LETTERS_PER_TOKEN
    if len(text) <= tokens:
        return text
    if text.isascii():
        return text[:room]
    for at, letter in enumerate(text):
        room -= 1 if letter.isascii() else LETTERS_PER_TOKEN
        if room < 0:
            return text[:at]
    return text
