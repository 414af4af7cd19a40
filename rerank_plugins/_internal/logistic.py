"""The one sigmoid, and its inverse."""

from __future__ import annotations

import math

__all__ = ["logit", "sigmoid"]

_LEAST, _MOST = -746.0, 37.0
"""The logits of 0 and 1: beyond those of all other floats between them."""


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(-logit)) without overflow."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    small = math.exp(logit)
    return small / (1.0 + small)


def logit(probability: float) -> float:
    """Return the number whose sigmoid is a probability; finite also for 0 and 1."""
    if probability <= 0.0:
        return _LEAST
    if probability >= 1.0:
        return _MOST
    return math.log(probability) - math.log1p(-probability)
