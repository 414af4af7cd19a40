"""Score, rank and show in one call: `rerank()` and the result that shows itself."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Never, overload

from rerank_plugins._adapter import check_settings, refuse_unknown
from rerank_plugins.backend import Backend, as_scores, ascore_with
from rerank_plugins.content import Document, Query
from rerank_plugins.errors import MissingDependencyError
from rerank_plugins.ranking import Cutoff, Ranked, Selection, TokenCount
from rerank_plugins.scores import Passage, Scale, Scores
from rerank_plugins.spec import BackendSpec, load_backend

if TYPE_CHECKING:
    from rich.table import Table
    from typing_extensions import TypeVar

    D_co = TypeVar("D_co", bound=Document, covariant=True, default=Document)
else:
    from typing import TypeVar  # before Python 3.13 without a default

    D_co = TypeVar("D_co", bound=Document, covariant=True)

__all__ = ["RankedDocument", "RerankResult", "arerank", "rerank"]

_SETTINGS = ("backend", "count_tokens", "distinct", "max_tokens", "min_gap", "min_score", "top_n")
_COLUMNS = ["rank", "index", "moved", "score", "document", "truncated"]


@dataclass(frozen=True, slots=True)
class RankedDocument(Generic[D_co]):
    """One document of a result: the document, its score, and where it came from."""

    rank: int
    """Its place in the result, from 1."""
    index: int
    """Its position in the list that was reranked, from 0."""
    score: float
    """Its score, on the scale of the backend."""
    document: D_co
    """The caller's own document; its type is that of the documents that were passed."""
    truncated: bool = False
    """Whether the model read a part of it only."""
    passage: Passage | None = None
    """The part of it that made the score, where one did."""
    highlight: Passage | None = None
    """The best sentence of that part, where the model tells it."""

    @property
    def moved(self) -> int:
        """Places it moved up; negative if it moved down."""
        return self.index + 1 - self.rank


@dataclass(frozen=True, slots=True, repr=False)
class RerankResult(Sequence[RankedDocument[D_co]], Generic[D_co]):
    """The documents that were kept, best first; a table in a notebook and in a terminal.

    A sequence of `RankedDocument`: iterate it, index it, slice it, take its `len()`.
    """

    query: str | Query
    """What the documents were ranked for."""
    documents: tuple[D_co, ...]
    """All documents of the request, in their order there."""
    ranked: tuple[Ranked, ...]
    """The places of the documents that were kept, best first, as `rank()` returns them."""
    scores: Scores
    """The scores of all documents in their first order, and what is known about them."""
    label: str
    """The label of the backend that was called; see `Backend.label`."""
    cutoff: Cutoff = field(default_factory=Cutoff)
    """Why there are no more documents, and which were left out as near-duplicates."""

    @property
    def backend(self) -> str:
        """The name of the backend that scored; its label if nothing was scored."""
        return self.scores.backend or self.label

    @property
    def scale(self) -> Scale:
        """The range of the scores."""
        return self.scores.scale

    @overload
    def __getitem__(self, place: int) -> RankedDocument[D_co]: ...
    @overload
    def __getitem__(self, place: slice) -> list[RankedDocument[D_co]]: ...
    def __getitem__(self, place: int | slice) -> RankedDocument[D_co] | list[RankedDocument[D_co]]:
        if isinstance(place, slice):
            return [self._item(number) for number in range(len(self))[place]]
        return self._item(range(len(self))[place])

    def _item(self, number: int) -> RankedDocument[D_co]:
        index, score = self.ranked[number].index, self.ranked[number].score
        return RankedDocument(
            number + 1,
            index,
            score,
            self.documents[index],
            truncated=index in self.scores.truncated,
            passage=self.scores.passages.get(index),
            highlight=self.scores.highlights.get(index),
        )

    def __iter__(self) -> Iterator[RankedDocument[D_co]]:
        return map(self._item, range(len(self)))

    def __len__(self) -> int:
        return len(self.ranked)

    def __repr__(self) -> str:
        kept = f"{len(self)} of {len(self.documents)} documents"
        return f"<RerankResult {kept} by {self.backend}>"

    def __str__(self) -> str:
        """Return the ranking as a table, with texts; `repr()` has none."""
        from rich.console import Console  # noqa: PLC0415 - rarely shown

        console = Console(color_system=None, file=io.StringIO(), force_terminal=False)
        with console.capture() as captured:
            console.print(self, crop=False)
        lines = captured.get().splitlines()
        return "\n".join(line.rstrip() for line in lines)

    def to_pandas(self) -> Any:  # pandas has no types
        """Return a `pandas.DataFrame` with a row for each document that was kept, best first.

        Its columns are `rank` (from 1), `index` (in the request, from 0), `moved` (places up),
        `score`, `document` and `truncated`.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ModuleNotFoundError as exc:
            raise MissingDependencyError(
                "`pandas` is not installed; run: pip install pandas"
            ) from exc
        rows = [tuple(getattr(item, name) for name in _COLUMNS) for item in self]
        return pandas.DataFrame(rows, columns=_COLUMNS)

    def _words(self) -> str:
        query = self.query
        return (query.text or "") if isinstance(query, Query) else query

    def __rich__(self) -> Table:
        from rerank_plugins._internal.display import as_table  # noqa: PLC0415 - rarely shown

        return as_table(
            self.documents, self.ranked, self.scores, label=self.label, cutoff=self.cutoff
        )

    def _repr_html_(self) -> str:
        from rerank_plugins._internal.display import as_html  # noqa: PLC0415 - rarely shown

        return as_html(
            self._words(),
            self.documents,
            self.ranked,
            self.scores,
            label=self.label,
            cutoff=self.cutoff,
        )


def rerank(
    query: str | Query,
    documents: Sequence[D_co],
    *,
    backend: BackendSpec = None,
    top_n: int | None = None,
    min_score: float | None = None,
    min_gap: float | None = None,
    max_tokens: int | None = None,
    count_tokens: TokenCount = None,
    distinct: float | None = None,
    **unknown: Never,  # only to answer misnamed settings with the right name
) -> RerankResult[D_co]:
    """Score the documents, order them, and return a result that shows itself.

    A backend built from a spec is closed again; to ask often, load it once and pass it:
    `with load_backend(spec) as backend: …`.

    Args:
        query: what to rank by.
        documents: the candidates, in the retriever's order.
        backend: anything `load_backend()` takes.
        top_n: keep at most this many; None keeps all.
        min_score: keep scores of at least this, on the scale of the backend.
        min_gap: end where a score lies at least this far below the one before it.
        max_tokens: keep as many documents as fit into so many tokens.
        count_tokens: what counts them; see `rank()`.
        distinct: leave out a document of which this share stands in a better one; see `rank()`.
        **unknown: takes nothing; a setting by another reranker's name is answered with ours.

    Raises:
        ConfigError: a setting is unknown or out of range, the spec is wrong, or `min_score` or
            `min_gap` means nothing on the scale of the backend.
        MissingDependencyError: the backend needs an extra that is not installed.
        UnsupportedInputError: the query or a document can't be scored.
        BackendError: the backend failed.
    """
    refuse_unknown(unknown, valid=_SETTINGS, where="rerank")
    loaded = load_backend(backend)
    selection = Selection(
        top_n=top_n,
        min_score=min_score,
        min_gap=min_gap,
        max_tokens=max_tokens,
        count_tokens=count_tokens,
        distinct=distinct,
    )
    check_settings(loaded, selection)
    with nullcontext() if loaded is backend else loaded:
        scores = as_scores(loaded.score(query, documents), len(documents), loaded)
    return _result(query, documents, loaded, scores, selection)


async def arerank(
    query: str | Query,
    documents: Sequence[D_co],
    *,
    backend: BackendSpec = None,
    top_n: int | None = None,
    min_score: float | None = None,
    min_gap: float | None = None,
    max_tokens: int | None = None,
    count_tokens: TokenCount = None,
    distinct: float | None = None,
    **unknown: Never,  # only to answer misnamed settings with the right name
) -> RerankResult[D_co]:
    """Like `rerank`, without blocking the event loop."""
    refuse_unknown(unknown, valid=_SETTINGS, where="arerank")
    loaded = load_backend(backend)
    selection = Selection(
        top_n=top_n,
        min_score=min_score,
        min_gap=min_gap,
        max_tokens=max_tokens,
        count_tokens=count_tokens,
        distinct=distinct,
    )
    check_settings(loaded, selection)
    async with nullcontext() if loaded is backend else loaded:
        scores = await ascore_with(loaded, query, documents)
    return _result(query, documents, loaded, scores, selection)


def _result(
    query: str | Query,
    documents: Sequence[D_co],
    backend: Backend,
    scores: Scores,
    selection: Selection,
) -> RerankResult[D_co]:
    ranking = selection.apply(scores, documents)
    return RerankResult(
        query, tuple(documents), tuple(ranking), scores, backend.label, ranking.cutoff
    )
