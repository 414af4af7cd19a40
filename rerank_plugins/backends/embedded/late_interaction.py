"""Late interaction: each query token takes its best match in the document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["TokenVectors", "max_sim", "quantize"]

_SAME_TOKEN = 0.05
"""Added to the cosine of two equal tokens, so that a literal match beats a paraphrase."""


class TokenVectors(NamedTuple):
    """A text as the model sees it: what each token is, and what it means in its context."""

    ids: NDArray[np.int32]
    """Vocabulary entry of each token."""
    directions: NDArray[np.int8]
    """One row per token; only its direction means anything."""
    inverse_lengths: NDArray[np.float32]
    """What scales each row to length 1."""
    is_truncated: bool = False
    """Whether these are only the first tokens of the text."""

    def at(self, keep: NDArray[np.bool_]) -> TokenVectors:
        """Return the tokens chosen by a mask."""
        return TokenVectors(
            self.ids[keep], self.directions[keep], self.inverse_lengths[keep], self.is_truncated
        )


def quantize(
    ids: NDArray[np.int32], vectors: NDArray[np.float32], *, is_truncated: bool = False
) -> TokenVectors:
    """Round vectors (tokens x width) to 8 bits, each row by its own largest value."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    directions = np.rint(vectors * (127.0 / largest)).astype(np.int8)
    lengths = np.linalg.norm(directions.astype(np.float32), axis=1)
    return TokenVectors(ids, directions, (1.0 / lengths).astype(np.float32), is_truncated)


def max_sim(query: TokenVectors, documents: Sequence[TokenVectors]) -> NDArray[Any]:
    """Return one number per document: the mean over query tokens of their best match there.

    A match is the cosine of two token vectors plus 0.05 for equal tokens, so results lie between
    -1 and 1.05. A document without tokens gets 0. This is the MaxSim operator of ColBERT,
    https://arxiv.org/abs/2004.12832, as a mean.
    """
    scores = np.zeros(len(documents))
    filled = [i for i, document in enumerate(documents) if len(document.ids)]
    if not filled or not len(query.ids):
        return scores
    joined = TokenVectors(
        np.concatenate([documents[i].ids for i in filled]),
        np.concatenate([documents[i].directions for i in filled]),
        np.concatenate([documents[i].inverse_lengths for i in filled]),
    )
    matches = _unit(query) @ _unit(joined).T
    matches += np.float32(_SAME_TOKEN) * (query.ids[:, None] == joined.ids)
    starts = np.cumsum([0, *(len(documents[i].ids) for i in filled[:-1])])
    scores[filled] = np.maximum.reduceat(matches, starts, axis=1).mean(axis=0)
    return scores


def _unit(tokens: TokenVectors) -> NDArray[np.float32]:
    return tokens.directions * tokens.inverse_lengths[:, None]
