"""Checks a loaded graph against plain NumPy, so that a wrong one never scores."""

from __future__ import annotations

import numpy as np

from rerank_plugins.backends.engines.base import UnsupportedByEngine
from rerank_plugins.backends.engines.onnx.encoder import Encoder
from rerank_plugins.backends.engines.onnx.reference import logits_of, pooled_of, tokens_of
from rerank_plugins.backends.engines.onnx.session import Session
from rerank_plugins.backends.engines.onnx.tensors import Array

__all__ = ["verify"]

_SEED = 0
_SMALLEST = 1e-2
"""Length from which an error is relative: near 0, rounding would look large."""
_TOLERANCE = 1e-3
"""Of numbers that differ by rounding only."""


def verify(session: Session, encoder: Encoder, *, tolerance: float, longest: int) -> float:
    """Score three random sequences both ways and return the largest error of `pooled`.

    An error is the length of the difference over the length of the expected vector.

    Raises:
        UnsupportedByEngine: an error is above `tolerance`, or the logits don't follow from
            `pooled`.
    """
    head = encoder.head
    if head is None:
        raise UnsupportedByEngine("the checkpoint has no classification head to give logits")
    random = np.random.default_rng(_SEED)
    windows = [layer.window for layer in encoder.layers if layer.window is not None]
    lengths = (2, 7, max([12, *(window + 9 for window in windows)]))
    worst = 0.0
    with np.errstate(all="ignore"):  # broken weights are found by their scores
        for length in (min(length, longest) for length in lengths):
            ids = random.integers(len(encoder.embeddings.words), size=length).astype(np.int32)
            types = (np.arange(length) > length // 2).astype(np.int32)
            types %= 1 if encoder.embeddings.types is None else len(encoder.embeddings.types)
            expected = pooled_of(head, tokens_of(encoder, ids, types))
            pooled = session.run("pooled", ids, types)[0]
            worst = max(worst, _error(pooled, expected))
            logits = session.run("logits", ids, types)[0]
            of_head = _error(logits, logits_of(encoder, head, pooled))
            if worst > tolerance or of_head > _TOLERANCE:
                raise UnsupportedByEngine(
                    f"the ONNX graph differs from the reference by {max(worst, of_head):.2g} "
                    f'(allowed: {tolerance:.2g}); use dtype="float32" or engine="torch"'
                )
    return worst


def _error(actual: Array, expected: Array) -> float:
    size = float(np.linalg.norm(expected))
    if not np.isfinite(size):
        return 0.0  # the weights are broken, not the graph
    error = float(np.linalg.norm(actual - expected)) / max(size, _SMALLEST)
    return error if np.isfinite(error) else np.inf
