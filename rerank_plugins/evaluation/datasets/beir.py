"""Folders as BEIR lays them out, and the same parts as files of any name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rerank_plugins.errors import UnsupportedInputError
from rerank_plugins.evaluation.datasets.dataset import Dataset, checked
from rerank_plugins.evaluation.datasets.lines import identifier, lines, objects, text_of
from rerank_plugins.evaluation.datasets.trec import read_qrels, read_run
from rerank_plugins.evaluation.first_stage import BM25_NAME, bm25

__all__ = ["read_files", "read_folder"]

_QRELS = ("qrels/test.tsv", "qrels.tsv", "qrels.txt", "qrels/dev.tsv")
_RUNS = ("candidates.tsv", "run.trec", "run.txt", "run.tsv")


def read_folder(folder: Path, *, depth: int) -> Dataset:
    """Read `corpus.jsonl`, `queries.jsonl`, the judgements, and a run if there is one.

    The judgements are the first of `qrels/test.tsv`, `qrels.tsv`, `qrels.txt` and
    `qrels/dev.tsv`; the run is the first of `candidates.tsv`, `run.trec`, `run.txt` and
    `run.tsv`. Any may be packed, as in `corpus.jsonl.gz`.

    Raises:
        UnsupportedInputError: a file is missing, or holds what can't be used.
    """
    run = _first(folder, _RUNS)
    return read_files(
        corpus=_named(folder, ["corpus.jsonl"]),
        queries=_named(folder, ["queries.jsonl"]),
        qrels=_named(folder, _QRELS),
        run=run,
        name=folder.resolve().name,
        depth=depth,
    )


def read_files(
    *, corpus: Path, queries: Path, qrels: Path, run: Path | None, name: str, depth: int
) -> Dataset:
    """Read the parts of a dataset; without a run, BM25 finds `depth` candidates per query.

    `queries` is JSON Lines, or lines of id and text with a tab between them.

    Raises:
        UnsupportedInputError: a file is missing, or holds what can't be used.
    """
    documents = _texts(corpus)
    texts = _topics(queries) if ".tsv" in queries.suffixes else _texts(queries)
    grades, notes = read_qrels(qrels)
    if run is not None:
        candidates, first_stage = read_run(run), run.name.partition(".")[0]
        if run.name.startswith("candidates"):
            first_stage = "first stage"
    else:
        wanted = {query: text for query, text in texts.items() if query in grades}
        candidates, first_stage = bm25(wanted, documents, depth=depth), BM25_NAME
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


def _named(folder: Path, names: Sequence[str]) -> Path:
    found = _first(folder, names)
    if found is None:
        raise UnsupportedInputError(
            f"{str(folder)!r} is no dataset: it has no {', no '.join(names)}"
        )
    return found


def _texts(path: Path) -> dict[str, str]:
    found: dict[str, tuple[str, str]] = {}
    for where, fields in objects(path):
        name = identifier(fields, where)
        if name in found:
            raise UnsupportedInputError(
                f"{where}: the id {name!r} was used before, at {found[name][1]}"
            )
        found[name] = text_of(fields, where), where
    return {name: text for name, (text, _) in found.items()}


def _topics(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for where, line in lines(path):
        name, tab, text = line.partition("\t")
        if not tab or name in found:
            what = f"the id {name!r} was used before" if tab else "expected ID, a tab and a text"
            raise UnsupportedInputError(f"{where}: {what}")
        found[name] = text
    return found
