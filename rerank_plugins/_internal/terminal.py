"""Text of others in a terminal, where control characters could drive it or reorder what it shows.

These are the C0 and C1 controls, the separators of lines, the marks of direction (Unicode's
`Bidi_Control`), and the tags that no font shows.
"""

from __future__ import annotations

import json
import re

__all__ = ["UNSAFE", "escaped", "to_json"]

_CLASS = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\U000e0000-\U000e007f"
UNSAFE = re.compile(f"[\x00-\x1f{_CLASS}]")
"""A character that no text of others may bring into a terminal."""
_UNSAFE_IN_JSON = re.compile(f"[{_CLASS}]")
"""`json` escapes the others in strings; between them it writes line feeds."""


def escaped(text: str) -> str:
    """Return text on one line, with unsafe characters as Python escapes them."""
    return UNSAFE.sub(lambda match: repr(match[0])[1:-1], text)


def to_json(document: object, *, indent: int | None = 2) -> str:
    """Return JSON that any terminal can show; whoever reads it gets the same values."""
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return _UNSAFE_IN_JSON.sub(lambda match: json.dumps(match[0])[1:-1], text) + "\n"
