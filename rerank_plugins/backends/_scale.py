"""From logits to probabilities: the one sigmoid every backend uses."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["to_probability"]


def to_probability(logits: Iterable[float]) -> list[float]:
    """Return the sigmoid of each logit, from 0 to 1; no logit overflows."""
    return [_sigmoid(logit) for logit in logits]


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    small = math.exp(logit)
    return small / (1.0 + small)
