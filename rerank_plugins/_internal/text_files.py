"""The one reader of text and JSON Lines files; every error names the file and the line."""

from __future__ import annotations

import codecs
import gzip
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rerank_plugins._internal.encoding import check_encodable
from rerank_plugins.errors import DataError, UnsupportedInputError

__all__ = [
    "TEXT_KEYS",
    "check_object",
    "check_unicode",
    "id_of",
    "json_type",
    "parse_json",
    "read_lines",
    "read_objects",
    "text_of",
]

TEXT_KEYS = ("text", "page_content", "contents", "content", "passage", "abstract")
"""Where a JSON object holds its text: under the first of these keys that it has."""

_ID_KEYS = ("_id", "id")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_JSON_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    type(None): "null",
}


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield where each line stands, as `FILE:LINE`, and its text; skip blank lines.

    Args:
        path: a file in UTF-8, with or without a byte order mark; unpacked if its name ends in
            `.gz`. `-` is standard input.

    Raises:
        DataError: the file can't be read or is not UTF-8.
    """
    name = str(path)
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                where = f"{name}:{number}"
                raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                text = _decode(raw, where).rstrip("\r\n")
                if text.strip():
                    yield where, text
    except (OSError, EOFError) as exc:  # EOFError: a .gz file that was cut off
        reason = getattr(exc, "strerror", None) or exc
        raise DataError(f"can't read {name!r}: {reason}") from exc


def _open(path: Path) -> Any:
    if str(path) == "-":
        return nullcontext(sys.stdin.buffer)
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as exc:
        utf16 = line.startswith(_UTF16_MARKS)
        reason = "it starts like UTF-16" if utf16 else f"byte {exc.start + 1}"
        raise DataError(
            f"{where}: not UTF-8 text ({reason}); convert the file first, as with: iconv -f "
            "ENCODING -t UTF-8"
        ) from exc


def read_objects(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield where each line of a JSON Lines file stands, and its object.

    Raises:
        DataError: as `read_lines()`, or a line is not a JSON object.
    """
    for where, line in read_lines(path):
        yield where, check_object(parse_json(line, where), where)


def check_object(value: object, where: str) -> Mapping[str, Any]:
    """Return the value, which must be a JSON object.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, not {json_type(value)}")
    return value


def parse_json(text: str, where: str) -> Any:
    """Return a JSON value.

    Raises:
        DataError: it is not valid JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{where}: not valid JSON: {exc}") from exc


def json_type(value: object) -> str:
    """Return what JSON calls the type of a value, with its article."""
    return _JSON_TYPES.get(type(value), "a number")


def text_of(
    fields: Mapping[str, Any], where: str, keys: Sequence[str] = TEXT_KEYS, *, hint: str = ""
) -> str:
    """Return the text of a JSON object, preceded by its `title` if it has one.

    Args:
        fields: the object.
        where: its place, for messages.
        keys: the keys that may hold the text; the first one with a value counts.
        hint: what to do about a missing text, for the message.

    Raises:
        DataError: it has neither a text nor a title, or one is no string.
    """
    present = [key for key in keys if key in fields]
    key = next((key for key in present if fields[key] is not None), next(iter(present), None))
    title = fields.get("title")
    text = None if key is None else fields[key]
    if key is None and not title:
        raise DataError(
            f"{where}: found no text under {', '.join(keys)} or title{hint}, out of: "
            f"{', '.join(fields) or 'none, it is empty'}"
        )
    for name, value, optional in (("title", title, True), (key, text, isinstance(title, str))):
        if not isinstance(value, str) and not (value is None and (optional or name is None)):
            raise DataError(f"{where}: `{name}` is {json_type(value)}, not a string")
    whole = "\n".join(filter(None, (title, text)))
    return check_unicode(whole, where)


def check_unicode(text: str, where: str) -> str:
    """Return the text, which must be valid Unicode: JSON can hold what UTF-8 can't.

    Raises:
        DataError: it holds a lone surrogate.
    """
    try:
        check_encodable(text, f"{where}: the text")
    except UnsupportedInputError as exc:
        raise DataError(str(exc)) from exc
    return text


def id_of(fields: Mapping[str, Any]) -> str | None:
    """Return the `_id` or `id` of a JSON object: a string or a number; None if it has neither."""
    for key in _ID_KEYS:
        value = fields.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return str(value)
    return None
