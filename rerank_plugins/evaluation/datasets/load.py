"""`load_dataset()`: read a dataset from any source."""

from __future__ import annotations

import os
from pathlib import Path

from rerank_plugins.errors import ConfigError, DataError
from rerank_plugins.evaluation.datasets.beir import read_files, read_folder
from rerank_plugins.evaluation.datasets.dataset import Dataset
from rerank_plugins.evaluation.datasets.demo import DEMO_NAMES, read_demo
from rerank_plugins.evaluation.datasets.ir_datasets import read_ir_dataset
from rerank_plugins.evaluation.datasets.json_lines import read_json_lines

__all__ = ["load_dataset"]

_JSON_LINES = (".jsonl", ".ndjson")
_IR_DATASETS = ("irds:", "ir_datasets:")
_DEMO = "demo:"


def load_dataset(
    source: Dataset | str | os.PathLike[str],
    *,
    qrels: str | os.PathLike[str] | None = None,
    run: str | os.PathLike[str] | None = None,
    queries: str | os.PathLike[str] | None = None,
    depth: int = 100,
) -> Dataset:
    """Read a dataset.

    Args:
        source: one of

            - a folder in BEIR's layout;
            - a JSON Lines file with a query, its candidates and its judgements on each line;
            - `"irds:ID"`: a dataset of the `ir_datasets` catalogue;
            - `"demo:NAME"`: a small dataset of this package;
            - with `queries` and `qrels`: a corpus, as JSON Lines;
            - a `Dataset`: returned as it is.
        qrels: judgements: TREC's format, or BEIR's.
        run: the first stage's candidates, in TREC's format; None: BM25 retrieves them.
        queries: JSON Lines, or `ID<TAB>TEXT` in a file that ends in `.tsv`.
        depth: how many candidates BM25 retrieves if there is no run.

    Raises:
        ConfigError: there is no such dataset, or the arguments don't fit together.
        MissingDependencyError: it needs an extra that is not installed.
        DataError: a file can't be read or used; the message names file and line.
    """
    parts = {"qrels": qrels, "run": run, "queries": queries}
    present = [name for name, part in parts.items() if part is not None]
    if isinstance(source, Dataset) or str(source).startswith((*_IR_DATASETS, _DEMO)):
        if present:
            raise ConfigError(f"{', '.join(present)}: valid only with a corpus file")
        return _named(source, depth)
    path = Path(source)
    if qrels is not None and queries is not None:
        return read_files(
            corpus=path,
            queries=Path(queries),
            qrels=Path(qrels),
            run=None if run is None else Path(run),
            name=path.name.partition(".")[0],
            depth=depth,
        )
    if present:
        raise ConfigError(
            f"a corpus needs both `queries` and `qrels`, not only {', '.join(present)}"
        )
    if path.is_dir():
        return read_folder(path, depth=depth)
    if path.name.removesuffix(".gz").endswith(_JSON_LINES):
        return read_json_lines(path)
    if path.exists():
        raise DataError(
            f"can't tell what {str(path)!r} is: give a BEIR folder, a .jsonl file, or a corpus "
            "with its queries and qrels"
        )
    raise ConfigError(
        f"there is no dataset {str(path)!r}: give a BEIR folder, a .jsonl file, irds:ID, or one of "
        f"{', '.join(_DEMO + name for name in DEMO_NAMES)}"
    )


def _named(source: Dataset | str | os.PathLike[str], depth: int) -> Dataset:
    if isinstance(source, Dataset):
        return source
    kind, _, name = str(source).partition(":")
    if kind == "demo":
        return read_demo(name)
    return read_ir_dataset(name, depth=depth)
