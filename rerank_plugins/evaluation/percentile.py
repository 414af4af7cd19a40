"""The percentile that all figures of speed are."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["percentile"]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least of the values that so many per cent of them do not exceed.

    That is the nearest rank: one of the values, never a mean of two.

    Args:
        values: at least one, in any order.
        percent: from 0 to 100.
    """
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]
