"""LangChain documents: what is refused, and the copies that come back."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from rerank_plugins._adapter import (
    RETRIEVER_RANK,
    RETRIEVER_SCORE,
    Keep,
    Kept,
    Outcome,
    add_facts,
    add_passage,
    own_passage,
    plain,
)
from rerank_plugins._internal.rank_fields import RankFields, fields_text
from rerank_plugins.errors import UnsupportedInputError
from rerank_plugins.ranking import Selection
from rerank_plugins.scores import Passage

__all__ = ["RELEVANCE_SCORE", "are_documents", "best", "check_documents", "scored_texts"]

CONTENT_NAMES = ("page_content", "text")
"""What `rank_fields` calls a document's own content, whatever its metadata holds."""

RELEVANCE_SCORE = "relevance_score"
"""Metadata key: the score the reranker gave the document, on the scale of its backend."""


def check_documents(documents: object) -> None:
    """Refuse what is not a sequence of documents.

    Raises:
        UnsupportedInputError: it is something else, or one of them is.
    """
    if isinstance(documents, str | bytes) or not isinstance(documents, Sequence):
        raise UnsupportedInputError(
            f"`documents` must be a list of LangChain documents, not `{type(documents).__name__}`"
        )
    for position, document in enumerate(documents):
        if not isinstance(document, Document):
            raise UnsupportedInputError(
                f"document {position} must be a LangChain `Document`, "
                f"not `{type(document).__name__}`{_hint(document)}"
            )


def scored_texts(documents: Sequence[Document], rank_fields: RankFields) -> list[str]:
    """Return what is scored of each document: its content, or the fields that are named.

    Raises:
        UnsupportedInputError: a document has none of the fields, or one of no text.
    """
    if rank_fields is None:
        return [document.page_content for document in documents]
    return [_fields(document, place, rank_fields) for place, document in enumerate(documents)]


def _fields(document: Document, position: int, rank_fields: Sequence[str] | str) -> str:
    content = dict.fromkeys(CONTENT_NAMES, document.page_content)
    try:
        return fields_text({**document.metadata, **content}, rank_fields)
    except ValueError as error:
        names = rank_fields if isinstance(rank_fields, str) else ", ".join(rank_fields)
        raise UnsupportedInputError(f"document {position}: {error}: {names}") from None


def are_documents(value: object) -> bool:
    """Whether something is a list of documents, with one at least."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Document)


def _hint(document: object) -> str:
    if isinstance(document, str):
        return "; pass Document(page_content=text)"
    if are_documents(document):  # as the searches with scores return them
        return "; pass [document for document, _ in documents]"
    return ""


def best(
    documents: Sequence[Document],
    scored: Sequence[str],
    outcome: Outcome,
    selection: Selection,
    keep: Keep,
) -> list[Document]:
    """Return copies of the best documents with what is known about their rank.

    Args:
        documents: the documents.
        scored: what was scored of each.
        outcome: what became of them.
        selection: how many to keep.
        keep: whether they come back whole.
    """
    cuts = keep == "passage"

    def passage(at: int) -> Passage | None:
        return own_passage(scored[at], documents[at].page_content, outcome.passage(at))

    kept = outcome.kept(
        selection,
        lambda: [
            _cut(document.page_content, passage(at) if cuts else None)
            for at, document in enumerate(documents)
        ],
    )
    return [
        _with_rank(
            documents[item.index], item, outcome.status, passage=passage(item.index), cuts=cuts
        )
        for item in kept
    ]


def _cut(text: str, passage: Passage | None) -> str:
    return text if passage is None else text[passage.start : passage.end]


def _with_rank(
    document: Document, kept: Kept, status: str | None, *, passage: Passage | None, cuts: bool
) -> Document:
    """Copy a document with its new score, if there is one, and what the retriever thought."""
    metadata = dict(document.metadata)
    earlier = metadata.pop(RELEVANCE_SCORE, None)
    if RETRIEVER_RANK not in metadata:
        metadata[RETRIEVER_RANK] = kept.index + 1
        if earlier is not None:
            metadata[RETRIEVER_SCORE] = plain(earlier)
    if kept.score is not None:
        metadata[RELEVANCE_SCORE] = kept.score
    add_facts(metadata, kept, status=status, truncated=kept.truncated)
    text = document.page_content
    add_passage(metadata, text, passage)
    update: dict[str, object] = {"metadata": metadata}
    if cuts:
        update["page_content"] = _cut(text, passage)
    return document.model_copy(update=update)
