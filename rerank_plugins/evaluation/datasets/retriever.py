"""`from_retriever()`: the candidates of the user's own retriever."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from rerank_plugins.errors import ConfigError, DataError
from rerank_plugins.evaluation.datasets.dataset import Dataset, checked, counted

__all__ = ["from_retriever"]

Judged: TypeAlias = tuple[str, Iterable[str] | Mapping[str, int]]

_ID_KEYS = ("id", "_id", "doc_id", "document_id", "source")


def from_retriever(
    retriever: Any,
    judged: Iterable[Judged] | Mapping[str, Iterable[str] | Mapping[str, int]],
    *,
    name: str = "retriever",
    depth: int = 100,
    id_of: Callable[[Any], str] | None = None,
) -> Dataset:
    """Run a retriever on judged queries, and return its candidates as a dataset.

    Args:
        retriever: a LangChain retriever (`invoke`), a LlamaIndex retriever (`retrieve`), or a
            function from a query to either's documents or to `(id, text)` pairs, best first.
        judged: `(query, ids of the relevant documents)` or `(query, {id: grade})` per query, or a
            mapping from queries to the ids or grades.
        name: the dataset's name in reports.
        depth: how many candidates to keep per query; set the retriever's `k` at least as high.
        id_of: a function from a document to its id; by default its `id` (LangChain), its `node_id`
            (LlamaIndex), or the first of the metadata `id`, `_id`, `doc_id`, `document_id` and
            `source`.

    Raises:
        ConfigError: `retriever` is none of these.
        DataError: a document has no id or no text, one id has two texts, or there
            is nothing to evaluate.
    """
    search = _search(retriever)
    documents: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    candidates: dict[str, list[str]] = {}
    repeated = 0
    pairs = judged.items() if isinstance(judged, Mapping) else judged
    for number, (query, relevant) in enumerate(pairs, start=1):
        key = f"q{number}"
        queries[key] = query
        qrels[key] = _grades(relevant)
        ids: list[str] = []
        for item in list(search(query))[:depth]:
            document, text = _identified(item, id_of)
            if documents.setdefault(document, text) != text:
                raise DataError(
                    f"query {number}: document {document!r} has another text than before; give "
                    "`id_of=`, a function from the document to an id that no other text has"
                )
            repeated += document in ids
            if document not in ids:
                ids.append(document)
        candidates[key] = ids
    notes = [counted(repeated, "document was", "documents were", "retrieved twice for a query")]
    return checked(
        name,
        queries=queries,
        documents=documents,
        qrels=qrels,
        candidates=candidates,
        first_stage=_name_of(retriever),
        warnings=notes if repeated else [],
    )


def _name_of(retriever: Any) -> str:
    return getattr(retriever, "__name__", type(retriever).__name__)


def _search(retriever: Any) -> Callable[[str], Iterable[Any]]:
    for method in ("invoke", "retrieve"):
        if hasattr(retriever, method):
            return getattr(retriever, method)  # type: ignore[no-any-return]  # foreign object
    if callable(retriever):
        return retriever  # type: ignore[no-any-return]  # foreign object
    raise ConfigError(
        "a retriever must have `invoke` or `retrieve`, or be a function from a query to "
        f"documents, not `{type(retriever).__name__}`"
    )


def _grades(relevant: Any) -> dict[str, int]:
    if isinstance(relevant, Mapping):
        return {str(document): int(grade) for document, grade in relevant.items()}
    if isinstance(relevant, str):
        return {relevant: 1}
    return {str(document): 1 for document in relevant}


def _identified(item: Any, id_of: Callable[[Any], str] | None) -> tuple[str, str]:
    """Return the id and the text of a retrieved document."""
    if isinstance(item, tuple):
        document, text = item
        return str(document), str(text)
    node = getattr(item, "node", item)
    if hasattr(node, "page_content"):
        text, name = node.page_content, getattr(node, "id", None)
    elif hasattr(node, "get_content"):
        text, name = node.get_content(metadata_mode="embed"), node.node_id
    else:
        raise DataError(
            f"the retriever returned a `{type(item).__name__}`, not a document, a node or a pair"
        )
    metadata = getattr(node, "metadata", None) or {}
    if id_of is not None:
        name = id_of(node)
    if name is None:
        name = next((metadata[key] for key in _ID_KEYS if metadata.get(key) is not None), None)
    if name is None:
        raise DataError(
            "a document of the retriever has no id; give `id_of=`, a function from the document "
            f"to its id (metadata: {', '.join(map(str, metadata)) or 'none'})"
        )
    return str(name), text
