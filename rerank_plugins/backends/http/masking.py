"""Masks a secret in what a server wrote: whole, escaped, or cut short."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from urllib.parse import quote, unquote

from rerank_plugins._internal.secret import Secret

__all__ = ["mask"]

_MASK = "[key]"
_PART = 8
"""So many characters of a secret in a row are masked."""
_MIN_PART = 4
"""Fewer stand in any text by chance."""
_ESCAPED = re.compile(r"\\(?:x|u00)([0-9a-fA-F]{2})")


def mask(text: str, secret: Secret) -> str:
    """Replace a secret, and each part of it from half of it or 8 characters on, by `[key]`.

    A text that holds such a part in a form that can't be found in it, such as in groups of four or
    in other letters, becomes "".
    """
    shown = bytearray(len(text))
    for form in _forms(secret.reveal()):
        _mark(shown, text, form)
    kept = [
        _MASK if is_secret else "".join(letter for _, letter in run)
        for is_secret, run in groupby(zip(shown, text, strict=True), key=itemgetter(0))
    ]
    rest = "".join(run for run in kept if run is not _MASK)
    return "" if _shows(rest, secret.reveal()) else "".join(kept)


def _forms(secret: str) -> set[str]:
    """Return a secret as servers write it: bare, quoted for JSON, Python, HTML or a URL."""
    forms = {secret}
    for _ in range(2):  # an error that quotes an error is escaped twice
        forms |= {escaped for form in forms for escaped in _escapes(form)}
    return {" ".join(form.split()) for form in forms} - {""}


def _escapes(text: str) -> Iterable[str]:
    in_json = json.dumps(text)[1:-1]
    return (
        in_json,
        in_json.replace("/", "\\/"),  # PHP's
        repr(text)[1:-1],
        html.escape(text),
        quote(text, safe=""),
    )


def _parts(secret: str, size: int) -> set[str]:
    return {secret[at : at + size] for at in range(len(secret) - size + 1)}


def _mark(shown: bytearray, text: str, form: str) -> None:
    """Mark where a form of a secret, or a part of it, stands in a text."""
    size = len(form)
    if size > _MIN_PART:
        size = min(_PART, max(_MIN_PART, size // 2))
    parts = _parts(form, size)
    for at in range(len(text) - size + 1):
        if text[at : at + size] in parts:
            shown[at : at + size] = b"\1" * size


def _shows(text: str, secret: str) -> bool:
    """Whether a part of a secret stands in a text once escapes and separators are removed."""
    parts = _parts(_squeezed(secret), _PART)
    decoded = text
    for _ in range(2):
        decoded = unquote(html.unescape(_ESCAPED.sub(_character, decoded)))
    squeezed = _squeezed(decoded)
    return any(squeezed[at : at + _PART] in parts for at in range(len(squeezed)))


def _squeezed(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def _character(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16))
