"""Documents from files: text with one per line, or JSON Lines."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from rerank_plugins.backend import check_encodable
from rerank_plugins.errors import UnsupportedInputError

__all__ = ["TEXT_KEYS", "Entry", "FileFormat", "read_documents"]

TEXT_KEYS = ("text", "page_content", "contents", "content", "passage", "abstract")
"""Where JSON lines hold their text: in the first of these keys that they have."""

_ID_KEYS = ("_id", "id")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class FileFormat(StrEnum):
    """How the lines of a file are read."""

    AUTO = "auto"
    JSONL = "jsonl"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Entry:
    """One document of a file."""

    text: str
    """What is scored."""
    source: str
    """Where it stands: `"notes.txt:12"`, lines from 1; standard input is `"-"`."""
    id: str | None = None
    """Its own name, where a JSON line gives one."""

    @property
    def label(self) -> str:
        """The best name for it: its own, else where it stands."""
        return self.id if self.id is not None else self.source


def read_documents(
    paths: Iterable[Path],
    file_format: FileFormat = FileFormat.AUTO,
    text_keys: Sequence[str] = TEXT_KEYS,
) -> list[Entry]:
    """Read every document of the files, in order; blank lines are none.

    Text may start with a byte order mark and end its lines with CR LF. `AUTO` reads a file as
    JSON Lines if its name ends in `.jsonl` or `.ndjson`, or its first line is a JSON object.

    Args:
        paths: the files; `-` is standard input.
        file_format: how to read their lines.
        text_keys: the keys of a JSON line that may hold its text; a `title` goes before it.

    Raises:
        UnsupportedInputError: a file can't be read or is not UTF-8, or a line is not a JSON
            object with a text; the message names the file and the line.
    """
    entries: list[Entry] = []
    for path in paths:
        name = str(path)
        try:
            if name == "-":
                entries += _entries(sys.stdin.buffer, name, file_format, text_keys)
            else:
                with path.open("rb") as file:
                    entries += _entries(file, name, file_format, text_keys)
        except OSError as exc:
            raise UnsupportedInputError(f"can't read {name!r}: {exc.strerror or exc}") from exc
    return entries


def _entries(
    file: BinaryIO, name: str, file_format: FileFormat, text_keys: Sequence[str]
) -> Iterator[Entry]:
    for number, line in enumerate(file, start=1):
        source = f"{name}:{number}"
        text = _decoded(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, source)
        if not text.strip():
            continue
        if file_format is FileFormat.AUTO:
            file_format = _detected(name, text)
        if file_format is FileFormat.JSONL:
            yield _json_entry(text, source, text_keys)
        else:
            yield Entry(text.rstrip("\r\n"), source)


def _decoded(line: bytes, source: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as exc:
        found = (
            "it starts like UTF-16" if line.startswith(_UTF16_MARKS) else f"byte {exc.start + 1}"
        )
        raise UnsupportedInputError(
            f"{source}: not UTF-8 text ({found}); convert the file first, "
            "as with: iconv -f ENCODING -t UTF-8"
        ) from exc


def _detected(name: str, first_line: str) -> FileFormat:
    if name.lower().endswith((".jsonl", ".ndjson")):
        return FileFormat.JSONL
    try:
        is_object = isinstance(json.loads(first_line), dict)
    except (ValueError, RecursionError):
        is_object = False
    return FileFormat.JSONL if is_object else FileFormat.TEXT


def _json_entry(line: str, source: str, text_keys: Sequence[str]) -> Entry:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise UnsupportedInputError(f"{source}: not valid JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise UnsupportedInputError(
            f"{source}: expected a JSON object, not {type(fields).__name__!r}"
        )
    text = next((fields[key] for key in text_keys if key in fields), None)
    title = fields.get("title")
    if text is None and not isinstance(title, str):
        raise UnsupportedInputError(
            f"{source}: found no text under {', '.join(text_keys)} or title; name its key with "
            f"--text-key, out of: {', '.join(fields) or 'none, it is empty'}"
        )
    if not isinstance(text, str | None):
        raise UnsupportedInputError(
            f"{source}: the text must be a string, not {type(text).__name__!r}"
        )
    parts = (title if isinstance(title, str) else "", text or "")
    name = next((str(fields[key]) for key in _ID_KEYS if fields.get(key) is not None), None)
    whole = "\n".join(filter(None, parts))
    check_encodable(whole, f"{source}: the text")  # JSON can write what UTF-8 can't
    return Entry(whole, source, name)
