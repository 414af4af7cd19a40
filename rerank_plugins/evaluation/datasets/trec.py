"""Judgements (qrels) and runs, in the tables of TREC and BEIR."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from rerank_plugins._internal.text_files import read_lines
from rerank_plugins.errors import DataError
from rerank_plugins.evaluation.datasets.dataset import counted

__all__ = ["read_qrels", "read_run"]

_QUERY, _DOCUMENT = "query-id", "corpus-id"
_TREC_QRELS, _TREC_RUN, _SHORT = 4, 6, 3


def read_qrels(path: Path) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Read judgements: query id → document id → grade, and warnings.

    TREC's four columns (query, unused, document, grade), or BEIR's three (query, document,
    grade) with or without a heading.

    Raises:
        DataError: a line has another form or a grade that is not an integer, or a
            document is judged twice, differently.
    """
    qrels: dict[str, dict[str, int]] = {}
    repeated = 0
    for where, fields in _rows(path):
        if len(fields) not in (_SHORT, _TREC_QRELS):
            raise DataError(
                f"{where}: a judgement has 4 columns (query, 0, document, grade) or 3 (query, "
                f"document, grade), not {len(fields)}"
            )
        query, document, grade = fields[0], fields[-2], _grade(fields[-1], where)
        grades = qrels.setdefault(query, {})
        if grades.get(document, grade) != grade:
            raise DataError(
                f"{where}: document {document!r} is judged twice for query {query!r}: "
                f"{grades[document]} and {grade}"
            )
        repeated += document in grades
        grades[document] = grade
    notes = [f"{path.name}: " + counted(repeated, "judgement is", "judgements are", "repeated")]
    return qrels, notes if repeated else []


def read_run(path: Path) -> dict[str, list[str]]:
    """Read a run: query id → document ids, best first.

    TREC's six columns (query, Q0, document, rank, score, tag) are ordered as trec_eval orders
    them: by score, equal scores by document id, both descending; the rank is not read. A table
    with a heading that names `query-id` and `corpus-id`, and three columns (query, document,
    rank), are ordered by the third column, a rank from 1 up.

    Raises:
        DataError: a line has another form, or a document comes twice for a query.
    """
    run: dict[str, list[tuple[float, str]]] = {}
    seen: set[tuple[str, str]] = set()
    for where, fields in _rows(path, heading=True):
        if len(fields) == _TREC_RUN:
            query, document, key = fields[0], fields[2], -_number(fields[4], where)
        elif len(fields) in (_SHORT, _SHORT + 1):
            query, document, key = fields[0], fields[1], _number(fields[2], where)
        else:
            raise DataError(
                f"{where}: a run has 6 columns (query, Q0, document, rank, score, tag) or 3 "
                f"(query, document, rank), not {len(fields)}"
            )
        if (query, document) in seen:
            raise DataError(f"{where}: document {document!r} comes twice for query {query!r}")
        seen.add((query, document))
        run.setdefault(query, []).append((key, document))
    ordered = {}
    for query, entries in run.items():
        entries.sort(key=lambda entry: entry[1], reverse=True)
        entries.sort(key=lambda entry: entry[0])
        ordered[query] = [document for _, document in entries]
    return ordered


def _rows(path: Path, *, heading: bool = False) -> Iterator[tuple[str, Sequence[str]]]:
    for number, (where, line) in enumerate(read_lines(path)):
        fields = line.split("\t") if "\t" in line else line.split()
        if number == 0 and fields[:2] == [_QUERY, _DOCUMENT]:
            if heading and fields[2:3] != ["rank"]:
                raise DataError(f"{where}: the third column of a run must be `rank`")
            continue
        yield where, [field.strip() for field in fields]


def _grade(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError as exc:
        raise DataError(f"{where}: the grade {text!r} is not an integer") from exc


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise DataError(f"{where}: {text!r} is not a number")
    return number
