"""What is scored: a query and documents, as text, images or both; and the check of a request."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from rerank_plugins._internal.encoding import check_encodable
from rerank_plugins.errors import UnsupportedInputError

__all__ = [
    "CheckedDocuments",
    "Content",
    "Document",
    "Query",
    "Requests",
    "check_request",
    "check_texts",
]

TEXT_ONLY = frozenset({"text"})
"""The `inputs` of a backend that scores strings and nothing else."""
_TEXT_AND_IMAGE = frozenset({"text", "image"})


@dataclass(frozen=True, slots=True)
class Content:
    """A document that is more than a string: text, an image, or both.

    Raises:
        UnsupportedInputError: both fields are None.
    """

    text: str | None = None
    """The text, if any."""
    image: str | bytes | None = None
    """The image, if any: encoded bytes (PNG, JPEG, …), a `data:` URI, a path or a URL."""

    def __post_init__(self) -> None:
        if self.text is None and self.image is None:
            raise UnsupportedInputError("`Content()` holds neither text nor an image; give one")


@dataclass(frozen=True, slots=True)
class Query:
    """A query that is more than a string: with an image, or with an instruction of its own.

    Raises:
        UnsupportedInputError: there is neither text nor an image.
    """

    text: str | None = None
    """What to rank by, in words."""
    image: str | bytes | None = None
    """What to rank by, as an image; see `Content.image`."""
    instruction: str | None = None
    """What the model should judge, for this call; it replaces the backend's own instruction."""

    def __post_init__(self) -> None:
        if self.text is None and self.image is None:
            raise UnsupportedInputError("`Query()` holds neither text nor an image; give one")


Document: TypeAlias = str | Content
"""What is scored against a query; a plain string is the rule."""

Requests: TypeAlias = Sequence[tuple[str | Query, Sequence[Document]]]
"""`(query, documents)` pairs."""


class CheckedDocuments(tuple[Document, ...]):  # noqa: SLOT001  # a tuple has no named slots
    """Documents that passed `check_request` with a query; with that query they pass again unread.

    Those without an image are plain strings. Only what has passed the check may be wrapped.

    Args:
        query: the query that passed with them.
        documents: the documents.
    """

    query: str | Query
    inputs: frozenset[str]
    """What the query and the documents hold; a backend whose `inputs` are fewer must refuse."""

    def __new__(cls, query: str | Query, documents: Iterable[Document]) -> Self:
        checked = super().__new__(cls, documents)
        has_image = isinstance(query, Query) and query.image is not None
        texts_only = {*map(type, checked)} <= {str} or all(isinstance(d, str) for d in checked)
        checked.query = query
        checked.inputs = TEXT_ONLY if texts_only and not has_image else _TEXT_AND_IMAGE
        return checked

    def __getnewargs__(self) -> tuple[Any, ...]:  # of `tuple`, it is the documents alone
        return self.query, tuple(self)

    def passed(self, query: str | Query, inputs: Collection[str], *, instructions: bool) -> bool:
        """Whether a check of these documents with `query` would let them pass."""
        if self.query is not query and self.query != query:
            return False
        has_instruction = isinstance(query, Query) and query.instruction is not None
        return self.inputs.issubset(inputs) and (instructions or not has_instruction)

    def take(self, positions: Iterable[int]) -> CheckedDocuments:
        """Return the documents at `positions`, in that order."""
        return CheckedDocuments(self.query, [self[position] for position in positions])


def check_request(
    query: str | Query,
    documents: Sequence[Document],
    *,
    inputs: Collection[str] = TEXT_ONLY,
    instructions: bool = False,
    label: str | None = None,
) -> tuple[str | Query, CheckedDocuments]:
    """Return the request in its simplest form if a backend can score it.

    Every backend applies these rules, so bad input fails alike everywhere: the query is a string
    that is not blank, or a `Query`; each document is a string or a `Content`; all are encodable as
    UTF-8 (no lone surrogates). Empty documents are fine. A `Query` or `Content` that holds nothing
    but text becomes a string.

    The outermost backend checks a request and hands `CheckedDocuments` on; with these and the
    same query, a later check returns at once.

    Args:
        query: what to rank by.
        documents: what to rank.
        inputs: what documents and query may hold: `{"text"}` or `{"text", "image"}`.
        instructions: whether the query may hold an instruction.
        label: what the message of a refused instruction calls the backend.

    Raises:
        UnsupportedInputError: a rule is broken; the message names the document, not its text.
    """
    if isinstance(documents, CheckedDocuments) and documents.passed(
        query, inputs, instructions=instructions
    ):
        return query, documents
    query = _check_query(query, inputs, instructions=instructions, label=label)
    if isinstance(documents, str | bytes | Content):
        raise UnsupportedInputError(
            f"`documents` is a single {_type(documents)}; pass a list: [document]"
        )
    if not isinstance(documents, Sequence):
        raise UnsupportedInputError(
            f"`documents` must be a sequence such as a list, not {_type(documents)}"
            f"{_as_list(documents)}"
        )
    return query, CheckedDocuments(
        query,
        [
            document
            if type(document) is str and document.isascii()  # most: no call for each
            else _check_document(document, position, inputs)
            for position, document in enumerate(documents)
        ],
    )


def check_texts(query: str | Query, documents: Sequence[Document]) -> tuple[str, tuple[str, ...]]:
    """Return the query and the documents as strings if a text-only backend can score them.

    The rules are those of `check_request`; images and instructions are refused.

    Raises:
        UnsupportedInputError: a rule is broken; the message names the document, not its text.
    """
    return check_request(query, documents)  # type: ignore[return-value]  # text only: strings


def _check_query(
    query: str | Query, inputs: Collection[str], *, instructions: bool, label: str | None
) -> str | Query:
    text: object = query
    image = instruction = None
    if isinstance(query, Query):
        text, image, instruction = query.text, query.image, query.instruction
    if image is not None:
        _check_image(image, inputs, "the query")
    if instruction is not None and not instructions:
        backend = f"backend {label!r}" if label else "this backend"
        raise UnsupportedInputError(
            f"the query holds an instruction, and {backend} can't tell its model one; leave it "
            "out, or use a model that takes instructions"
        )
    if text is not None or image is None:
        if not isinstance(text, str):
            raise UnsupportedInputError(f"the query must be a string, not {_type(text)}")
        if not text.strip() and image is None:
            raise UnsupportedInputError(
                "the query is empty or only white space: there is nothing to rank by"
            )
        check_encodable(text, "the query")
    if instruction is not None:
        if not isinstance(instruction, str) or not instruction.strip():
            raise UnsupportedInputError(
                f"the instruction must be a string that is not blank, not {_type(instruction)}"
            )
        check_encodable(instruction, "the instruction")
    if image is None and instruction is None:
        return text  # type: ignore[return-value]  # a string: there is no image
    return query


def _check_document(document: Document, position: int, inputs: Collection[str]) -> Document:
    text: object = document
    image = None
    if isinstance(document, Content):
        text, image = document.text, document.image
    if image is not None:
        _check_image(image, inputs, f"document {position}")
    if text is not None or image is None:
        if not isinstance(text, str):
            raise UnsupportedInputError(
                f"document {position} must be a string or `Content`, not {_type(text)}"
                f"{_as_string(text)}"
            )
        check_encodable(text, f"document {position}")
    return text if image is None else document  # type: ignore[return-value]  # checked: a string


def _check_image(image: object, inputs: Collection[str], what: str) -> None:
    if "image" not in inputs:
        raise UnsupportedInputError(f"{what} holds an image, and this backend scores text only")
    if isinstance(image, str):
        check_encodable(image, f"the image of {what}")
    elif not isinstance(image, bytes):
        raise UnsupportedInputError(
            f"the image of {what} must be bytes, a `data:` URI, a path or a URL, not {_type(image)}"
        )


def _as_list(documents: object) -> str:
    """Return how to make a list of what is none, as a text to append."""
    if hasattr(documents, "columns"):  # a data frame
        return "; pass the column with the texts: documents['text'].tolist()"
    if hasattr(documents, "tolist"):  # an array, a series, a tensor
        return "; pass documents.tolist()"
    return "; pass list(documents)" if isinstance(documents, Iterable) else ""


def _as_string(document: object) -> str:
    """Return where the text of another library's document is, as a text to append."""
    for attribute in ("page_content", "text", "get_content", "content"):
        if hasattr(document, attribute):
            call = "()" if attribute.startswith("get") else ""
            return f"; pass its text: document.{attribute}{call}"
    if isinstance(document, Mapping):
        return "; pass its text, as in document['text']"
    if isinstance(document, bytes):
        return "; pass document.decode()"
    is_missing = isinstance(document, float) and math.isnan(document)
    return "; it is a missing value (NaN): leave it out, or pass ''" if is_missing else ""


def _type(value: object) -> str:
    return f"`{type(value).__name__}`"
