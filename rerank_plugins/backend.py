"""The one interface: a backend scores documents against a query; `rank()` orders the scores."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias

from rerank_plugins.errors import ConfigError, InvalidResponse, UnsupportedInputError

__all__ = [
    "Backend",
    "Content",
    "Document",
    "Ranked",
    "Scale",
    "check_cut",
    "check_encodable",
    "check_scores",
    "check_texts",
    "rank",
]

Scale: TypeAlias = Literal["probability", "logit", "unknown"]
"""`"probability"`: 0 to 1. `"logit"`: any finite number. `"unknown"`: nothing is promised."""


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


Document: TypeAlias = str | Content


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document's place in a ranking."""

    index: int
    """Position of the document in the list that was scored, from 0."""
    score: float
    """Its score, on the scale of the backend."""


class Backend(ABC):
    """Scores documents against a query. Implement `name` and `score`; the rest has defaults.

    Safe to share between threads and cheap to build: models load and connections open on
    first use. The order of the scores is the order of the documents; sorting is `rank()`'s.
    """

    scale: Scale = "unknown"
    """Range of the scores; `"unknown"` unless the backend can promise it."""

    cacheable: bool = True
    """Whether a score depends on `name`, the query and its own document alone.

    False for listwise models (a score depends on the other documents) and for backends that
    may answer from different models.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What makes the scores: backends of equal names give equal scores. Holds no secret."""

    @abstractmethod
    def score(self, query: str, documents: Sequence[Document]) -> list[float]:
        """Return one finite float per document, in input order; higher is more relevant.

        No documents give `[]` without any work. It is all or nothing: never a partial list.

        Raises:
            UnsupportedInputError: the query or a document is of a kind that can't be scored.
            BackendError: the backend failed; its subclasses say whether a retry may help.
        """

    def score_many(self, requests: Sequence[tuple[str, Sequence[Document]]]) -> list[list[float]]:
        """Score several `(query, documents)` requests; like `score`, one list per request."""
        return [self.score(query, documents) for query, documents in requests]

    async def ascore(self, query: str, documents: Sequence[Document]) -> list[float]:
        """Like `score`, without blocking the event loop (by default: in a thread)."""
        return await asyncio.to_thread(self.score, query, documents)

    def describe(self) -> dict[str, object]:
        """Say what would score and how, as JSON-ready facts; may load the model."""
        return {"name": self.name, "scale": self.scale, "cacheable": self.cacheable}

    def to_spec(self) -> dict[str, object]:
        """Return the mapping from which `load_backend()` rebuilds this backend; no secrets.

        Raises:
            ConfigError: this backend can't be written down.
        """
        raise ConfigError(
            f"`{type(self).__name__}` can't be written as a spec; pass a spec string, a mapping "
            "or a TOML file in its place, or implement `to_spec()`"
        )

    def close(self) -> None:
        """Free models and connections. Closing twice is fine; so is using it again."""

    async def aclose(self) -> None:
        """Like `close`, from async code; also closes what belongs to the running event loop."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def rank(
    scores: Sequence[float], *, top_n: int | None = None, min_score: float | None = None
) -> list[Ranked]:
    """Order documents by score, best first; equal scores keep their input order.

    Args:
        scores: one finite number per document, as `Backend.score` returns them.
        top_n: keep at most this many; None keeps all, 0 none.
        min_score: keep scores of at least this, on the scale of the scores.

    Raises:
        ConfigError: `top_n` is negative or not an integer, or `min_score` is not finite.
        InvalidResponse: a score is not a finite number.
    """
    check_cut(top_n=top_n, min_score=min_score)
    finite = check_scores(scores, len(scores))
    order = sorted(range(len(finite)), key=finite.__getitem__, reverse=True)
    ranked = [Ranked(index, finite[index]) for index in order]
    if min_score is not None:
        ranked = [item for item in ranked if item.score >= min_score]
    return ranked[:top_n]


def check_cut(*, top_n: int | None, min_score: float | None) -> None:
    """Check the two settings of `rank()`; adapters call it when they are built.

    Raises:
        ConfigError: `top_n` is negative or not an integer, or `min_score` is not finite.
    """
    if top_n is not None and (not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 0):
        raise ConfigError(
            f"`top_n` must be None (keep all) or an integer of at least 0, not {top_n!r}"
        )
    if min_score is not None and not _is_finite(min_score):
        raise ConfigError(f"`min_score` must be None or a finite number, not {min_score!r}")


def check_scores(scores: Sequence[object], count: int) -> list[float]:
    """Return `scores` as Python floats if there is one finite number per document.

    Accepts anything with `__float__` except booleans and strings, so NumPy scalars pass.

    Raises:
        InvalidResponse: it is no list, the count differs, or a score is not a finite number.
    """
    try:
        found = len(scores)
    except TypeError:  # also an array without dimensions
        raise InvalidResponse(f"got {_kind(scores)}, not a list of scores") from None
    if found != count:
        raise InvalidResponse(f"got {found} scores for {count} documents")
    for position, score in enumerate(scores):
        if not _is_finite(score):
            raise InvalidResponse(
                f"score {position} of {count} is {score!r}, which is not a finite number"
            )
    return [float(score) for score in scores]  # type: ignore[arg-type]  # checked just above


def check_texts(query: str, documents: Sequence[Document]) -> list[str]:
    """Return the documents' texts if a text-only backend can score this request.

    Every backend applies these rules, so bad input fails alike everywhere: the query is a
    string that is not blank; each document is a string or a `Content` with text and no image;
    all are encodable as UTF-8 (no lone surrogates). Empty documents are fine.

    Raises:
        UnsupportedInputError: a rule is broken; the message names the document, not its text.
    """
    if not isinstance(query, str):
        raise UnsupportedInputError(f"the query must be a string, not {_kind(query)}")
    if not query.strip():
        raise UnsupportedInputError(
            "the query is empty or only white space: there is nothing to rank by"
        )
    check_encodable(query, "the query")
    if isinstance(documents, str | bytes | Content):
        raise UnsupportedInputError(
            f"`documents` is a single {_kind(documents)}; pass a list: [document]"
        )
    if not isinstance(documents, Sequence):
        raise UnsupportedInputError(
            f"`documents` must be a sequence such as a list, not {_kind(documents)}"
        )
    return [_text(document, position) for position, document in enumerate(documents)]


def _text(document: Document, position: int) -> str:
    text = document
    if isinstance(document, Content):
        if document.image is not None:
            raise UnsupportedInputError(
                f"document {position} holds an image, and this backend scores text only"
            )
        text = document.text  # type: ignore[assignment]  # not None: there is no image
    if not isinstance(text, str):
        raise UnsupportedInputError(
            f"document {position} must be a string or `Content`, not {_kind(text)}"
        )
    check_encodable(text, f"document {position}")
    return text


def check_encodable(text: str, what: str) -> None:
    """Check that `text`, which messages call `what`, can be written as UTF-8.

    Raises:
        UnsupportedInputError: it holds a lone surrogate.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise UnsupportedInputError(
            f"{what} holds a lone surrogate (U+{ord(text[exc.start]):04X} at {exc.start}), which "
            "is not text; clean it with text.encode('utf-8', 'replace').decode()"
        ) from None


def _kind(value: object) -> str:
    return f"`{type(value).__name__}`"


def _is_finite(value: object) -> bool:
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False
