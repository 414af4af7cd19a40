"""Random sequences run through plain NumPy: to verify graphs and to measure magnitudes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.onnx.build.encoder import Encoder, Head
from rerank_plugins.backends.local.onnx.build.reference import logits_of, pooled_of, tokens_of
from rerank_plugins.backends.local.onnx.build.weights import Array
from rerank_plugins.backends.local.onnx.session import Session

__all__ = ["Sample", "verify", "with_peaks"]

_LENGTHS = (2, 7, 40)
_BEYOND = 9  # tokens outside the first one's window, where attention is local
_SMALLEST = 1e-2
"""Length below which an error is absolute: near 0, rounding would look large."""
_TOLERANCE = 1e-3
"""Of values that differ by rounding only."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A random sequence, and what the reference computes for it."""

    ids: Array
    types: Array
    pooled: Array
    """The vector that the head reads, or those of all tokens."""
    attended: int
    """How many tokens, the first ones, the others see."""
    inputs: list[tuple[Array, Array, Array]]
    """Per layer: the inputs of its `attention_in`, `feed_in` and `feed_out`."""

    @classmethod
    def draw(
        cls, encoder: Encoder, head: Head, *, longest: int, masked: bool = False
    ) -> list[Self]:
        """Run the same few sequences every time; the last is longer than any window.

        If `masked`, the others do not see the last third of the tokens.
        """
        random = np.random.default_rng(0)
        windows = [layer.window for layer in encoder.layers if layer.window is not None]
        lengths = (*_LENGTHS, *(window + _BEYOND for window in set(windows)))
        return [
            cls._of(encoder, head, random, min(length, longest), masked=masked)
            for length in lengths
        ]

    @classmethod
    def _of(
        cls,
        encoder: Encoder,
        head: Head,
        random: np.random.Generator,
        length: int,
        *,
        masked: bool,
    ) -> Self:
        ids = random.integers(len(encoder.embeddings.words), size=length).astype(np.int32)
        types = (np.arange(length) > length // 2).astype(np.int32)
        types %= 1 if encoder.embeddings.types is None else len(encoder.embeddings.types)
        with np.errstate(all="ignore"):  # scores reveal broken weights
            attended = length - length // 3 if masked else length
            tokens, inputs = tokens_of(encoder, ids, types, attended)
            return cls(ids, types, pooled_of(head, tokens), attended, inputs)


def with_peaks(encoder: Encoder, samples: Sequence[Sample]) -> Encoder:
    """Return the encoder with the measured peaks of each layer's inputs."""
    layers = []
    for i, layer in enumerate(encoder.layers):
        attention, feed, units = (
            np.abs(np.concatenate([sample.inputs[i][which] for sample in samples])).max(axis=0)
            for which in (0, 1, 2)
        )
        layers.append(replace(layer, attention_peaks=attention, feed_peaks=feed, unit_peaks=units))
    return replace(encoder, layers=tuple(layers))


def verify(
    session: Session, encoder: Encoder, head: Head, samples: Sequence[Sample], *, tolerance: float
) -> float:
    """Compare a session with the reference and return the largest error of `pooled`.

    An error is the length of the difference over the length of the expected vector.

    Raises:
        UnsupportedByEngine: an error is above `tolerance`, or the logits don't follow from
            `pooled`.
    """
    worst = 0.0
    for sample in samples:
        row = (sample.ids, sample.types, sample.attended)
        pooled, logits = (session.run(output, *row) for output in ("pooled", "logits"))
        if head.pooling != "tokens":  # a sequence has one row
            pooled, logits = pooled[0], logits[0]
        with np.errstate(all="ignore"):
            worst = max(worst, _error(pooled, sample.pooled))
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
        return 0.0  # the weights are broken, and not the graph
    error = float(np.linalg.norm(actual - expected)) / max(size, _SMALLEST)
    return error if np.isfinite(error) else np.inf
