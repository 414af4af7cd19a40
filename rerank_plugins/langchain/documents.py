"""LangChain documents: what is refused, and the copies that come back."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from rerank_plugins._adapter import RETRIEVER_RANK, RETRIEVER_SCORE, Kept, Outcome, add_facts, plain
from rerank_plugins._internal.rank_fields import RankFields, fields_text
from rerank_plugins.errors import UnsupportedInputError
from rerank_plugins.ranking import Selection

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


def best(documents: Sequence[Document], outcome: Outcome, selection: Selection) -> list[Document]:
    """Return copies of the best documents with what is known about their rank."""
    kept = outcome.kept(selection, lambda: [document.page_content for document in documents])
    return [_with_rank(documents[item.index], item, outcome.status) for item in kept]


def _with_rank(document: Document, kept: Kept, status: str | None) -> Document:
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
    return document.model_copy(update={"metadata": metadata})
