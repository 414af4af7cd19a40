"""Unicode normalization in linear time, whatever the text."""

from __future__ import annotations

import re
from operator import itemgetter
from unicodedata import combining, normalize

__all__ = ["nfkc"]

_LONG_RUN = re.compile("[\\W\uff9e\uff9f]{31,}")
"""More combining marks in a row than any script needs (30 in UAX #15), among others.

All of them but these two are no letters for Python.
"""


def nfkc(text: str) -> str:
    """Return a text in Normalization Form KC.

    `unicodedata.normalize` takes quadratic time to sort the marks of a character: 20 s for 200,000
    that alternate. So long runs are sorted before.
    """
    if text.isascii():
        return text
    return normalize("NFKC", _LONG_RUN.sub(_sorted_marks, text))


def _sorted_marks(run: re.Match[str]) -> str:
    """Return characters in their compatibility decomposition and canonical order."""
    marks: list[tuple[int, int, str]] = []
    base = 0
    for mark in "".join([normalize("NFKD", character) for character in run[0]]):
        order = combining(mark)
        base += not order
        marks.append((base, order, mark))
    marks.sort(key=itemgetter(0, 1))
    return "".join([mark for _, _, mark in marks])
