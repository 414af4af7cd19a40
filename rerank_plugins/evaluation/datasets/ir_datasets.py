"""Datasets of the `ir_datasets` catalogue."""

from __future__ import annotations

from typing import Any

from rerank_plugins._internal.optional import require
from rerank_plugins.errors import ConfigError, DataError
from rerank_plugins.evaluation.bm25 import BM25_NAME, bm25
from rerank_plugins.evaluation.datasets.dataset import Dataset, checked

__all__ = ["read_ir_dataset"]


def read_ir_dataset(name: str, *, depth: int) -> Dataset:
    """Read a dataset by its id in the catalogue, as in `"beir/scifact/test"`.

    `ir_datasets` downloads what it does not have. The candidates are the dataset's own scored
    documents if it has some, else those that BM25 retrieves from the whole collection.

    Raises:
        ConfigError: there is no such dataset.
        MissingDependencyError: `ir_datasets` is not installed.
        DataError: it has no documents, queries or judgements, or can't be read.
    """
    module = require("ir_datasets", extra="ir-datasets")
    try:
        dataset = module.load(name)
    except KeyError as exc:
        raise ConfigError(f"ir_datasets has no dataset {name!r}") from exc
    for what in ("docs", "queries", "qrels"):
        if not getattr(dataset, f"has_{what}")():
            raise DataError(f"ir_datasets: {name!r} has no {what}; choose one of its subsets")
    try:
        return _read(dataset, name, depth)
    except OSError as exc:
        raise DataError(f"ir_datasets can't get {name!r}: {exc}") from exc


def _read(dataset: Any, name: str, depth: int) -> Dataset:
    qrels: dict[str, dict[str, int]] = {}
    for judgement in dataset.qrels_iter():
        qrels.setdefault(judgement.query_id, {})[judgement.doc_id] = int(judgement.relevance)
    queries = {query.query_id: query.default_text() for query in dataset.queries_iter()}
    if dataset.has_scoreddocs():
        scored: dict[str, list[tuple[float, str]]] = {}
        for item in dataset.scoreddocs_iter():
            if item.query_id in qrels:
                scored.setdefault(item.query_id, []).append((item.score, item.doc_id))
        candidates = {
            query: [document for _, document in sorted(items, reverse=True)]
            for query, items in scored.items()
        }
        used = {document for ids in candidates.values() for document in ids}
        used |= {document for grades in qrels.values() for document in grades}
        store = dataset.docs_store()
        documents = {key: doc.default_text() for key, doc in store.get_many(used).items()}
        first_stage = "first stage"
    else:
        documents = {document.doc_id: document.default_text() for document in dataset.docs_iter()}
        judged = {query: text for query, text in queries.items() if query in qrels}
        candidates, first_stage = bm25(judged, documents, depth=depth), BM25_NAME
    return checked(
        name,
        queries=queries,
        documents=documents,
        qrels=qrels,
        candidates=candidates,
        first_stage=first_stage,
    )
