"""Documents from files: text with one per line, JSON Lines, or a JSON array."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rerank_plugins._internal.text_files import (
    TEXT_KEYS,
    check_object,
    check_unicode,
    id_of,
    json_type,
    parse_json,
    read_lines,
    text_of,
)
from rerank_plugins.errors import DataError

__all__ = ["Entry", "FileFormat", "read_documents"]

_TABLES = (".csv", ".tsv")
_JSON_LINES = (".jsonl", ".ndjson")


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
    """Its own name, where a JSON object gives one."""

    @property
    def label(self) -> str:
        """Its own name, else where it stands."""
        return self.id if self.id is not None else self.source


def read_documents(
    paths: Iterable[Path],
    file_format: FileFormat = FileFormat.AUTO,
    text_keys: Sequence[str] = TEXT_KEYS,
) -> list[Entry]:
    """Read every document of the files, in order; skip blank lines.

    Text may start with a byte order mark and end its lines with CR LF; a file whose name ends in
    `.gz` is unpacked. `AUTO` reads a file as

    - JSON Lines, if its name ends in `.jsonl` or `.ndjson`, or its first line is a JSON object;
    - one JSON array of strings or objects, if its name ends in `.json` and it holds no JSON
      Lines, or the whole file is one array.

    Args:
        paths: the files; `-` is standard input.
        file_format: how to read them.
        text_keys: the keys of a JSON object that may hold its text; a `title` goes before it.

    Raises:
        DataError: a file can't be read, is a table or is not UTF-8, or holds JSON
            that is no document; the message names the file and the line.
    """
    return [entry for path in paths for entry in _entries(path, file_format, text_keys)]


def _entries(path: Path, file_format: FileFormat, text_keys: Sequence[str]) -> Iterator[Entry]:
    automatic = file_format is FileFormat.AUTO
    name = str(path).lower().removesuffix(".gz")
    if automatic and name.endswith(_TABLES):
        raise DataError(
            f"{str(path)!r} is a table, which can't be read; convert it to JSON Lines, one object "
            "with a `text` a line, or rank its lines as they are with --file-format text"
        )
    lines = list(read_lines(path))
    if automatic:
        file_format = _detect(name, lines)
    if file_format is FileFormat.JSON:
        yield from _items(lines, str(path), text_keys)
        return
    for source, line in lines:
        if file_format is FileFormat.JSONL:
            yield _json_entry(parse_json(line, source), source, text_keys)
        else:
            yield Entry(line, source)


def _detect(name: str, lines: Sequence[tuple[str, str]]) -> FileFormat:
    if name.endswith(_JSON_LINES):
        return FileFormat.JSONL
    first = lines[0][1] if lines else ""
    if _is_json(first, dict):
        return FileFormat.JSONL
    array = first.lstrip().startswith("[") and _is_json("\n".join(text for _, text in lines), list)
    return FileFormat.JSON if array or name.endswith(".json") else FileFormat.TEXT


def _is_json(text: str, kind: type) -> bool:
    try:
        return isinstance(json.loads(text), kind)
    except (ValueError, RecursionError):
        return False


def _items(
    lines: Sequence[tuple[str, str]], name: str, text_keys: Sequence[str]
) -> Iterator[Entry]:
    if not lines:
        return
    items = parse_json("\n".join(text for _, text in lines), name)
    if not isinstance(items, list):
        raise DataError(
            f"{name}: expected a JSON array of strings or objects, not {json_type(items)}"
        )
    for number, item in enumerate(items):
        source = f"{name}[{number}]"
        if isinstance(item, str):
            yield Entry(check_unicode(item, source), source)
        else:
            yield _json_entry(item, source, text_keys)


def _json_entry(value: object, source: str, text_keys: Sequence[str]) -> Entry:
    fields = check_object(value, source)
    text = text_of(fields, source, text_keys, hint="; name its key with --text-key")
    return Entry(text, source, id_of(fields))
