"""Signs for terminals without Unicode: what they can show in place of arrows, marks and bars."""

from __future__ import annotations

import codecs

__all__ = ["ERRORS"]

_PLAIN = {
    "▲": "+",
    "▼": "-",
    "✓": "+",
    "✗": "x",
    "…": "~",
    "–": "-",
    "\u2212": "-",
    "━": "=",
    "·": "|",
    "→": "->",
    "↔": "<->",
    "τ": "tau",
}


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in signs), error.end


ERRORS = "rerank_plugins.plain_signs"
"""The name of this way to treat what an encoding lacks."""

codecs.register_error(ERRORS, _replace)
