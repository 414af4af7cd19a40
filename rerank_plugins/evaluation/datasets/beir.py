"""Datasets in BEIR's folder layout, and the same parts in files of any name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rerank_plugins._internal.text_files import id_of, read_lines, read_objects, text_of
from rerank_plugins.errors import DataError
from rerank_plugins.evaluation.bm25 import BM25_NAME, bm25
from rerank_plugins.evaluation.datasets.dataset import Dataset, checked
from rerank_plugins.evaluation.datasets.trec import read_qrels, read_run

__all__ = ["read_files", "read_folder"]

_QRELS = ("qrels/test.tsv", "qrels.tsv", "qrels.txt", "qrels/dev.tsv")
_RUNS = ("candidates.tsv", "run.trec", "run.txt", "run.tsv")


def read_folder(folder: Path, *, depth: int) -> Dataset:
    """Read `corpus.jsonl`, `queries.jsonl`, the judgements, and the run if there is one.

    The judgements are the first of `qrels/test.tsv`, `qrels.tsv`, `qrels.txt` and
    `qrels/dev.tsv`; the run is the first of `candidates.tsv`, `run.trec`, `run.txt` and
    `run.tsv`. Any of them may be compressed, as in `corpus.jsonl.gz`.

    Raises:
        DataError: a file is missing or its content can't be used.
    """
    run = _first(folder, _RUNS)
    return read_files(
        corpus=_required(folder, ["corpus.jsonl"]),
        queries=_required(folder, ["queries.jsonl"]),
        qrels=_required(folder, _QRELS),
        run=run,
        name=folder.resolve().name,
        depth=depth,
    )


def read_files(
    *, corpus: Path, queries: Path, qrels: Path, run: Path | None, name: str, depth: int
) -> Dataset:
    """Read the parts of a dataset; without a run, BM25 retrieves `depth` candidates per query.

    `queries` is JSON Lines, or lines of id and text with a tab between them.

    Raises:
        DataError: a file is missing or its content can't be used.
    """
    documents = _texts(corpus)
    texts = _topics(queries) if ".tsv" in queries.suffixes else _texts(queries)
    grades, notes = read_qrels(qrels)
    if run is not None:
        candidates, first_stage = read_run(run), run.name.partition(".")[0]
        if run.name.startswith("candidates"):
            first_stage = "first stage"
    else:
        judged = {query: text for query, text in texts.items() if query in grades}
        candidates, first_stage = bm25(judged, documents, depth=depth), BM25_NAME
    return checked(
        name,
        queries=texts,
        documents=documents,
        qrels=grades,
        candidates=candidates,
        first_stage=first_stage,
        warnings=notes,
    )


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    paths = (folder / f"{name}{packed}" for name in names for packed in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _required(folder: Path, names: Sequence[str]) -> Path:
    path = _first(folder, names)
    if path is None:
        raise DataError(f"{str(folder)!r} is not a dataset: it lacks {' or '.join(names)}")
    return path


def _texts(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    places: dict[str, str] = {}
    for where, fields in read_objects(path):
        name = id_of(fields)
        if name is None:
            raise DataError(
                f"{where}: there is no id; give each line an `_id` or `id`, a string or an integer"
            )
        if name in texts:
            raise DataError(f"{where}: the id {name!r} was used before, at {places[name]}")
        texts[name], places[name] = text_of(fields, where), where
    return texts


def _topics(path: Path) -> dict[str, str]:
    topics: dict[str, str] = {}
    for where, line in read_lines(path):
        name, tab, text = line.partition("\t")
        if not tab:
            raise DataError(f"{where}: expected ID, a tab and a text")
        if name in topics:
            raise DataError(f"{where}: the id {name!r} was used before")
        topics[name] = text
    return topics
