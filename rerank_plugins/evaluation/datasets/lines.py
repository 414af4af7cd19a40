"""Lines of dataset files, and where each stands."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rerank_plugins.backend import check_encodable
from rerank_plugins.errors import UnsupportedInputError

__all__ = ["identifier", "lines", "objects", "text_of"]

_TEXT_KEYS = ("text", "page_content", "contents", "content", "passage", "abstract")
_ID_KEYS = ("_id", "id")


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield where each line stands, as `FILE:LINE`, and its text; blank lines are none.

    A file whose name ends in `.gz` is unpacked.

    Raises:
        UnsupportedInputError: the file can't be read or is not UTF-8.
    """
    where = str(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
                if text.strip():
                    yield where, text
    except UnicodeDecodeError as exc:
        raise UnsupportedInputError(f"{where}: not UTF-8 text (byte {exc.start + 1})") from exc
    except (OSError, EOFError) as exc:  # EOFError: a .gz file that was cut off
        reason = getattr(exc, "strerror", None) or exc
        raise UnsupportedInputError(f"can't read {str(path)!r}: {reason}") from exc


def objects(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield where each line of a JSON Lines file stands, and its object.

    Raises:
        UnsupportedInputError: as `lines()`, or a line is not a JSON object.
    """
    for where, line in lines(path):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise UnsupportedInputError(f"{where}: not valid JSON: {exc}") from exc
        if not isinstance(found, dict):
            raise UnsupportedInputError(
                f"{where}: expected a JSON object, not `{type(found).__name__}`"
            )
        yield where, found


def text_of(fields: Mapping[str, Any], where: str) -> str:
    """Return the text of an object, after its title if it has one.

    Raises:
        UnsupportedInputError: it has neither, or they are no strings.
    """
    key = next((key for key in _TEXT_KEYS if fields.get(key) is not None), None)
    parts = [fields.get("title") or "", fields[key] if key else ""]
    if key is None and not parts[0]:
        raise UnsupportedInputError(
            f"{where}: found no text under {', '.join(_TEXT_KEYS)} or title, out of: "
            f"{', '.join(fields) or 'none, it is empty'}"
        )
    if not all(isinstance(part, str) for part in parts):
        raise UnsupportedInputError(f"{where}: `title` and `{key}` must be strings")
    text = "\n".join(filter(None, parts))
    check_encodable(text, f"{where}: the text")
    return text


def identifier(fields: Mapping[str, Any], where: str) -> str:
    """Return the `_id` or `id` of an object.

    Raises:
        UnsupportedInputError: it has none, or one that is neither a string nor an integer.
    """
    for key in _ID_KEYS:
        value = fields.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return str(value)
    raise UnsupportedInputError(f"{where}: found no id: give each line an `_id` or `id`")
