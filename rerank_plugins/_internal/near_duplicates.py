"""Texts that say again what another says: containment of shingles.

See Broder, "On the resemblance and containment of documents", 1997.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from zlib import crc32

from rerank_plugins._internal.nfkc import nfkc

__all__ = ["NearDuplicates"]

_SIZE = 5
"""Characters of a shingle, so that scripts without spaces need no rule of their own."""
_CHARACTERS = 1 << 16
"""How much of a text is read."""
_SAMPLED = 16
"""One shingle of so many decides whether two texts are compared in full."""
_DEVIATIONS = 4
"""How many standard errors below the threshold a sample may lie."""
_COMPARED = 100
"""How many texts a new one is compared with."""


@dataclass(frozen=True, slots=True)
class _Shingles:
    all: frozenset[str]
    sample: frozenset[str]

    @classmethod
    def of(cls, text: str) -> _Shingles:
        plain = " ".join(nfkc(text[:_CHARACTERS]).casefold().split())
        starts = range(max(len(plain) - _SIZE, 0) + 1)
        shingles = frozenset([plain[start : start + _SIZE] for start in starts])
        sample = [one for one in shingles if crc32(one.encode()) % _SAMPLED == 0]
        return cls(shingles, frozenset(sample))

    def is_within(self, other: _Shingles, share: float) -> bool:
        """Whether at least this share of the shingles is among those of another text."""
        drawn = len(self.sample)
        least = share * drawn - _DEVIATIONS * math.sqrt(share * (1.0 - share) * drawn) - 1.0
        if len(self.sample & other.sample) < least:
            return False
        return len(self.all & other.all) >= share * len(self.all)


class NearDuplicates:
    """Remembers texts, and finds the one that holds most of a new text.

    Case, white space and compatibility forms of characters make no difference. Of a text the first
    65,536 characters count; a new text is compared with the first 100 that stayed.

    Args:
        share: from which share on a new text repeats another, 0 to 1: how many of its sequences
            of five characters stand there, too.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._known: dict[int, _Shingles] = {}

    def add(self, key: int, text: str) -> int | None:
        """Return the key of the first text that this one repeats; without one, remember it."""
        shingles = _Shingles.of(text)
        for other, known in self._known.items():
            if shingles.is_within(known, self._share):
                return other
        if len(self._known) < _COMPARED:
            self._known[key] = shingles
        return None
