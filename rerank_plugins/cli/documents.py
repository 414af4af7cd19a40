"""Documents from files: text with one per line, JSON Lines, or a JSON array."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from rerank_plugins.backend import check_encodable
from rerank_plugins.errors import UnsupportedInputError

__all__ = ["TEXT_KEYS", "Entry", "FileFormat", "read_documents"]

TEXT_KEYS = ("text", "page_content", "contents", "content", "passage", "abstract")
"""Where JSON lines hold their text: in the first of these keys that they have."""

_ID_KEYS = ("_id", "id")
_TABLES = (".csv", ".tsv")
_JSON_TYPES = {dict: "an object", list: "an array", bool: "a boolean", type(None): "null"}
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class FileFormat(StrEnum):
    """How a file is read."""

    AUTO = "auto"
    JSON = "json"
    JSONL = "jsonl"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Entry:
    """One document of a file."""

    text: str
    """What is scored."""
    source: str
    """Where it stands: line `"notes.txt:12"`, from 1, or item `"notes.json[11]"`, from 0."""
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

    - JSON Lines, if its name ends in `.jsonl` or `.ndjson`, or its first line is a JSON object;
    - one JSON array of strings or objects, if its name ends in `.json` and it holds no JSON
      Lines, or it is one from its first to its last character.

    Args:
        paths: the files; `-` is standard input.
        file_format: how to read them.
        text_keys: the keys of a JSON object that may hold its text; a `title` goes before it.

    Raises:
        UnsupportedInputError: a file can't be read, is a table or is not UTF-8, or holds JSON
            that is no document; the message names the file and the line.
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
    automatic = file_format is FileFormat.AUTO
    if automatic and name.lower().endswith(_TABLES):
        raise UnsupportedInputError(
            f"{name!r} is a table, which can't be read; convert it to JSON Lines, one object with "
            "a `text` a line, or rank its lines as they are with --file-format text"
        )
    lines = _lines(file, name)
    if automatic:
        file_format = _detected(name, lines)
    if file_format is FileFormat.JSON:
        yield from _items(lines, name, text_keys)
        return
    for source, line in lines:
        if file_format is FileFormat.JSONL:
            yield _json_entry(_parsed(line, source), source, text_keys)
        else:
            yield Entry(line.rstrip("\r\n"), source)


def _lines(file: BinaryIO, name: str) -> list[tuple[str, str]]:
    """Read where each line stands and its text, but for blank lines."""
    lines = []
    for number, line in enumerate(file, start=1):
        source = f"{name}:{number}"
        text = _decoded(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, source)
        if text.strip():
            lines.append((source, text))
    return lines


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


def _detected(name: str, lines: Sequence[tuple[str, str]]) -> FileFormat:
    name = name.lower()
    if name.endswith((".jsonl", ".ndjson")):
        return FileFormat.JSONL
    first = lines[0][1] if lines else ""
    if _is_json(first, dict):
        return FileFormat.JSONL
    array = first.lstrip().startswith("[") and _is_json("".join(text for _, text in lines), list)
    return FileFormat.JSON if array or name.endswith(".json") else FileFormat.TEXT


def _is_json(text: str, kind: type) -> bool:
    try:
        return isinstance(json.loads(text), kind)
    except (ValueError, RecursionError):
        return False


def _parsed(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UnsupportedInputError(f"{source}: not valid JSON: {exc}") from exc


def _items(
    lines: Sequence[tuple[str, str]], name: str, text_keys: Sequence[str]
) -> Iterator[Entry]:
    if not lines:
        return
    items = _parsed("".join(text for _, text in lines), name)
    if not isinstance(items, list):
        raise UnsupportedInputError(
            f"{name}: expected a JSON array of strings or objects, not {_json_type(items)}"
        )
    for number, item in enumerate(items):
        source = f"{name}[{number}]"
        if isinstance(item, str):
            check_encodable(item, f"{source}: the text")
            yield Entry(item, source)
        else:
            yield _json_entry(item, source, text_keys)


def _json_type(value: object) -> str:
    if isinstance(value, str):
        return "a string"
    return _JSON_TYPES.get(type(value), "a number")


def _json_entry(fields: Any, source: str, text_keys: Sequence[str]) -> Entry:
    if not isinstance(fields, dict):
        raise UnsupportedInputError(f"{source}: expected a JSON object, not {_json_type(fields)}")
    key = next((key for key in text_keys if key in fields), None)
    text = fields.get(key)
    title = fields.get("title")
    if key is None and not isinstance(title, str):
        raise UnsupportedInputError(
            f"{source}: found no text under {', '.join(text_keys)} or title; name its key with "
            f"--text-key, out of: {', '.join(fields) or 'none, it is empty'}"
        )
    if not isinstance(text, str) and not (text is None and isinstance(title, str)):
        raise UnsupportedInputError(f"{source}: `{key}` is {_json_type(text)}, not a string")
    parts = (title if isinstance(title, str) else "", text or "")
    name = next((str(fields[key]) for key in _ID_KEYS if fields.get(key) is not None), None)
    whole = "\n".join(filter(None, parts))
    check_encodable(whole, f"{source}: the text")  # JSON can write what UTF-8 can't
    return Entry(whole, source, name)
