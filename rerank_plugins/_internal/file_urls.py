"""`file:` URLs, which name a place on this machine and no server."""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["path_of_file_url"]

_FILE_URL = re.compile(
    r"file:(?://(?:localhost|127\.0\.0\.1)?(?=/))?(?:/(?=[a-z]:[\\/]))?(?P<path>.*)",
    re.IGNORECASE | re.DOTALL,
)


def path_of_file_url(text: str) -> str | None:
    """Return the path that a `file:` URL stands for; None if `text` is none."""
    found = _FILE_URL.fullmatch(text)
    return unquote(found["path"]) if found else None
