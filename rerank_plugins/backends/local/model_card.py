"""What the card of a model states at its head: its languages and its licence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["read_card"]

_MOST = 1 << 16
"""Characters of the longest head that is read."""
_LISTED = 12
_LONGEST = 60
"""Characters of the longest name of a language or a licence."""
_SETTING = re.compile(r"(?P<name>[a-z_]+):(?P<value>.*)")


def read_card(folder: Path) -> dict[str, object]:
    """Return `languages` and `licence`, as far as `README.md` states them; never raises."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST)
    except OSError:
        return {}
    head = _head(text)
    facts: dict[str, object] = {}
    if languages := _values(head, "language"):
        more = len(languages) - _LISTED
        rest = [f"and {more} more"] if more > 0 else []
        facts["languages"] = [*languages[:_LISTED], *rest]
    if licences := _values(head, "license_name") or _values(head, "license"):
        facts["licence"] = licences[0]
    return facts


def _head(text: str) -> list[str]:
    """Return the lines between the first two that are `---`; none where there are no such."""
    lines = text.lstrip("\ufeff").splitlines()
    ends = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
    return lines[1 : ends[1]] if ends[:1] == [0] and ends[1:] else []


def _values(head: list[str], name: str) -> list[str]:
    """Return the texts of a setting: one, or those of a list in one line or in several.

    The head is YAML, of which cards use this much for plain settings.
    """
    return [
        value
        for value in (each.strip().strip("'\"") for each in _written(head, name))
        if value and len(value) <= _LONGEST and not set(value) & set("[]{}&*|>:#")
    ]


def _written(head: list[str], name: str) -> Iterator[str]:
    lines = iter(head)
    for line in lines:
        found = _SETTING.fullmatch(line.rstrip())
        if found is None or found["name"] != name:
            continue
        value = found["value"].strip()
        if value.startswith("[") and value.endswith("]"):
            yield from value[1:-1].split(",")
        elif value:
            yield value
        for item in lines:
            if not item.lstrip().startswith("- "):
                return
            yield item.lstrip()[2:]
