"""Reads the order of documents from what a chat model answered, whatever it answered."""

from __future__ import annotations

import re

__all__ = ["read_permutation"]

_MAX_ANSWER = 100_000
_ID = r"(?:(?:document|passage|doc) ?)?#?\[? ?[0-9]{1,6} ?\]?"
_CHAIN = re.compile(rf"{_ID}(?:[ \n]?[>,;][ \n]?{_ID})+", re.IGNORECASE)
_FORMS = (
    re.compile(r"\[ ?([0-9]{1,6}) ?\]"),
    re.compile(r"\b(?:document|passage|doc) ?#?([0-9]{1,6})\b", re.IGNORECASE),
    re.compile(r"^#?([0-9]{1,6})\.?$", re.MULTILINE),
)
"""Identifiers outside of a chain: in brackets, after a word, alone on a line."""
_NUMBER = re.compile(r"[0-9]{1,6}")
_CUT = re.compile(r"\[ ?[0-9]*$")
"""An identifier of which the answer may lack the end."""
_PLAIN = str.maketrans(dict(zip("【】［］〔〕＞›»→，、；", "[][][]>>>>,,;", strict=True)))
"""What stands for the signs that were asked for, as in Chinese answers."""
_THOUGHTS_END = "</think>"
_THOUGHTS_BEGIN = "<think"


def read_permutation(answer: str, count: int) -> list[int]:
    """Return the positions of documents in the order that an answer names them, the best first.

    Identifiers count from 1. One that is repeated counts where it stands first; one of no document
    is left out. Thoughts before the answer are no answer; an answer that is cut short counts as far
    as it goes. Takes linear time.

    Args:
        answer: what the model wrote: `[2] > [1]`, `2, 1`, `["2", "1"]`, prose or nothing.
        count: how many documents there are.

    Returns:
        different positions from 0 to `count - 1`; empty if the answer names no document.
    """
    text = answer[-_MAX_ANSWER:].rpartition(_THOUGHTS_END)[2]
    if _THOUGHTS_BEGIN in text:  # it ends before the answer begins
        return []
    plain = text.translate(_PLAIN).replace('"', "").replace("*", "")
    lines = (" ".join(line.split()) for line in plain.splitlines())
    numbers = _numbers(_CUT.sub("", "\n".join(filter(None, lines))))
    positions = dict.fromkeys(int(number) - 1 for number in numbers)
    return [position for position in positions if 0 <= position < count]


def _numbers(text: str) -> list[str]:
    """Return the identifiers of the longest chain, or else those of the first form there is."""
    chains = [_NUMBER.findall(chain[0]) for chain in _CHAIN.finditer(text)]
    if chains:
        return max(reversed(chains), key=len)  # of several the last: prose comes before the answer
    return next(filter(None, (form.findall(text) for form in _FORMS)), [])
