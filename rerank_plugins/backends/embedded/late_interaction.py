"""Late interaction: each query token takes its best match in the document."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["TokenVectors", "max_sim", "quantize"]


class TokenVectors(NamedTuple):
    """A text as the model sees it: what each token means in its context."""

    directions: NDArray[np.int8]
    """One row per token; only its direction means anything."""
    inverse_lengths: NDArray[np.float32]
    """What scales each row to length 1."""
    windows: tuple[int, ...] = ()
    """Where each window starts, for a text with tokens: `(0,)` if it was read at once."""
    tokens: int = 0
    """How many tokens were read."""
    is_truncated: bool = False
    """Whether these are only the first tokens of the text."""

    def at(self, keep: NDArray[np.bool_]) -> TokenVectors:
        """Return the vectors chosen by a mask, as one window."""
        return self._replace(
            directions=self.directions[keep],
            inverse_lengths=self.inverse_lengths[keep],
            windows=(0,),
        )


def quantize(vectors: Sequence[NDArray[np.float32]], *, is_truncated: bool = False) -> TokenVectors:
    """Round the vectors of windows, tokens x width each, to 8 bits, each row by its largest.

    All are finite, and none is zero.
    """
    rows = np.concatenate(vectors) if vectors else np.zeros((0, 1), np.float32)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    directions = np.rint(rows * (127.0 / largest)).astype(np.int8)
    lengths = np.linalg.norm(directions.astype(np.float32), axis=1)
    starts = tuple(accumulate(map(len, vectors[:-1]), initial=0)) if vectors else ()
    inverse = (1.0 / lengths).astype(np.float32)
    return TokenVectors(directions, inverse, starts, len(rows), is_truncated)


def max_sim(query: TokenVectors, documents: Sequence[TokenVectors]) -> NDArray[Any]:
    """Return one number per document, from -1 to 1: how well its best window matches the query.

    A window's match is the mean over query tokens of their largest cosine with a token there: the
    MaxSim operator of ColBERT, https://arxiv.org/abs/2004.12832, as a mean. A document without
    tokens gets 0.
    """
    scores = np.zeros(len(documents))
    filled = [i for i, document in enumerate(documents) if document.windows]
    if not filled or not query.windows:
        return scores
    joined = TokenVectors(
        np.concatenate([documents[i].directions for i in filled]),
        np.concatenate([documents[i].inverse_lengths for i in filled]),
    )
    offsets = accumulate((len(documents[i].directions) for i in filled[:-1]), initial=0)
    windows = [
        offset + start
        for offset, i in zip(offsets, filled, strict=True)
        for start in documents[i].windows
    ]
    matches = _unit(query) @ _unit(joined).T
    by_window = np.maximum.reduceat(matches, windows, axis=1).mean(axis=0)
    firsts = list(accumulate((len(documents[i].windows) for i in filled[:-1]), initial=0))
    scores[filled] = np.maximum.reduceat(by_window, firsts)
    return scores


def _unit(tokens: TokenVectors) -> NDArray[np.float32]:
    return tokens.directions * tokens.inverse_lengths[:, None]
