"""JSON Lines datasets: each line holds a query, its candidates and its judgements."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank_plugins._internal.text_files import read_objects, text_of
from rerank_plugins.errors import DataError
from rerank_plugins.evaluation.datasets.dataset import Dataset, checked

__all__ = ["read_json_lines"]

_KEYS = ("id", "query", "documents", "relevant", "positive", "negative")
_OTHER_NAMES = {
    "anchor": "query",
    "hard_negatives": "negative",
    "neg": "negative",
    "negatives": "negative",
    "pos": "positive",
    "positives": "positive",
}
"""What FlagEmbedding and sentence-transformers call a key → what it is here."""


def read_json_lines(path: Path) -> Dataset:
    """Read one object per query: `query`, `documents` and which of them are relevant.

    - `documents`: the first stage's order, best first: strings, or objects with a `text` (and
      `title`, `id`, `relevance`).
    - `relevant`: positions (from 0) or ids of the relevant documents, or an object of id →
      grade; or else a grade, `relevance`, in each relevant document.
    - `positive` and `negative` instead of both: lists of texts. They are unordered, so the first
      stage's order is a shuffle that depends on the texts alone. `pos` and `neg`, as FlagEmbedding
      writes, are the same, and so are `positives`, `negatives` and `hard_negatives`.
    - `id`: the query's name; by default the line number.

    Raises:
        DataError: a line has another form; the message names it.
    """
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    candidates: dict[str, list[str]] = {}
    unordered = 0
    for where, read in read_objects(path):
        fields = {_OTHER_NAMES.get(name, name): value for name, value in read.items()}
        query = str(fields.get("id", fields.get("_id", where.rpartition(":")[2])))
        if query in queries:
            raise DataError(f"{where}: the id {query!r} was used before")
        if not isinstance(fields.get("query"), str):
            raise DataError(f"{where}: `query` must be a string")
        if "documents" in fields:
            texts, grades = _ordered(fields, query, where)
        elif "positive" in fields:
            texts, grades = _unordered(fields, query, where)
            unordered += 1
        else:
            raise DataError(
                f"{where}: there is neither `documents` nor `positive`; valid: {', '.join(_KEYS)}"
            )
        for document, text in texts.items():
            if documents.setdefault(document, text) != text:
                raise DataError(f"{where}: document {document!r} has another text than before")
        queries[query], qrels[query] = fields["query"], grades
        candidates[query] = list(texts)
    judged = [grade for grades in qrels.values() for grade in grades.values()]
    if unordered == len(queries) and judged and all(judged):
        raise DataError(
            f"{str(path)!r}: every text is relevant, so any order is perfect; do the others stand "
            f"under another key than `negative`? Keys of the last line: {', '.join(read)}"
        )
    return checked(
        path.name.partition(".")[0],
        queries=queries,
        documents=documents,
        qrels=qrels,
        candidates=candidates,
        first_stage="no order" if unordered == len(queries) else "first stage",
    )


def _ordered(
    fields: Mapping[str, Any], query: str, where: str
) -> tuple[dict[str, str], dict[str, int]]:
    """Return document id → text and document id → grade."""
    ids: list[str] = []
    texts: dict[str, str] = {}
    grades: dict[str, int] = {}
    for place, item in enumerate(_list(fields, "documents", where)):
        at = f"{where}: document {place}"
        document: Mapping[str, Any] = {"text": item} if isinstance(item, str) else item
        if not isinstance(document, dict):
            raise DataError(f"{at} must be a string or an object")
        name = str(document.get("id", document.get("_id", f"{query}/{place}")))
        if name in texts:
            raise DataError(f"{at}: the id {name!r} comes twice")
        ids.append(name)
        texts[name] = text_of(document, at) if document.get("text") != "" else ""
        if "relevance" in document:
            grades[name] = _grade(document["relevance"], at)
    if "relevant" in fields:
        return texts, grades | _relevant(fields["relevant"], ids, where)
    return texts, grades


def _relevant(relevant: Any, ids: Sequence[str], where: str) -> dict[str, int]:
    if isinstance(relevant, dict):
        return {name: _grade(grade, f"{where}: `relevant`") for name, grade in relevant.items()}
    grades = {}
    for item in relevant if isinstance(relevant, list) else [relevant]:
        if isinstance(item, str):
            grades[item] = 1
        elif isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(ids):
            grades[ids[item]] = 1
        else:
            raise DataError(
                f"{where}: `relevant` holds {item!r}, which is neither an id nor a position from 0 "
                f"to {len(ids) - 1}"
            )
    return grades


def _unordered(
    fields: Mapping[str, Any], query: str, where: str
) -> tuple[dict[str, str], dict[str, int]]:
    texts: dict[str, str] = {}
    grades: dict[str, int] = {}
    labelled = [
        (text, kind == "positive")
        for kind in ("positive", "negative")
        for text in _list(fields, kind, where)
    ]
    if not all(isinstance(text, str) for text, _ in labelled):
        raise DataError(f"{where}: `positive` and `negative` must hold strings")
    # With the positive texts first, the first stage would be perfect.
    labelled.sort(key=lambda item: hashlib.sha256(item[0].encode("utf-8", "replace")).digest())
    for place, (text, relevant) in enumerate(labelled):
        texts[f"{query}/{place}"] = text
        grades[f"{query}/{place}"] = int(relevant)
    return texts, grades


def _list(fields: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = fields.get(key, [])
    if isinstance(value, str) and key == "positive":
        return [value]
    if not isinstance(value, list):
        raise DataError(f"{where}: `{key}` must be a list")
    return value


def _grade(value: Any, where: str) -> int:
    if isinstance(value, int):  # true is 1
        return int(value)
    raise DataError(f"{where}: the grade {value!r} is not an integer")
