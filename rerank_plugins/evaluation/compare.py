"""`compare()`: the rankings of several backends for one query, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from rerank_plugins._internal.display import excerpt, facts_of
from rerank_plugins._internal.rank_statistics import kendall_tau
from rerank_plugins.content import Document, Query
from rerank_plugins.errors import ConfigError
from rerank_plugins.evaluation.agreement import rank_biased_overlap
from rerank_plugins.evaluation.labels import label_backends
from rerank_plugins.evaluation.report.comparison_page import as_chart, as_page
from rerank_plugins.evaluation.report.comparison_table import as_tables
from rerank_plugins.ranking import check_cut
from rerank_plugins.result import RerankResult, rerank
from rerank_plugins.scores import Scores
from rerank_plugins.spec import BackendSpec

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["FIRST_STAGE", "Agreement", "Comparison", "Ordering", "compare"]

FIRST_STAGE = "first stage"
"""The label of the order in which the documents were passed."""


@dataclass(frozen=True, slots=True)
class Ordering:
    """A ranking of the documents."""

    label: str
    """Its name in the comparison; unique."""
    scores: Scores | None
    """The scores in the first stage's order, with their facts; None for the first stage."""
    order: tuple[int, ...]
    """The documents' positions in the first stage's order, best first."""
    ranks: tuple[int, ...]
    """The rank of each document, from 1, in the first stage's order."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike two rankings are."""

    first: str
    """The label of one."""
    second: str
    """The label of the other."""
    tau: float | None
    """Kendall's τ-b of all documents, -1 to 1; None where all scores of one are equal."""
    rbo: float
    """Rank-biased overlap with p = 0.9, 0 to 1; earlier places weigh more."""
    overlap: int
    """How many documents both have in their first `top_n`."""


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """The rankings of the same documents by several backends; shown as a chart in notebooks."""

    query: str
    """The query."""
    documents: tuple[Document, ...]
    """All documents, in the order of the first stage."""
    ids: tuple[str, ...] | None
    """A name per document, or None."""
    top_n: int
    """How many places are shown and count for overlaps; at most the number of documents."""
    orderings: tuple[Ordering, ...]
    """The first stage, then one per backend, in the order of `compare()`'s argument."""
    agreements: tuple[Agreement, ...]
    """One per pair of orderings."""

    @property
    def shown(self) -> tuple[int, ...]:
        """Positions of the documents in the top of any ranking, in the first backend's order."""
        return tuple(
            position
            for position in self.orderings[1].order
            if min(ordering.ranks[position] for ordering in self.orderings) <= self.top_n
        )

    def to_dict(self) -> dict[str, object]:
        """Return everything but the documents as JSON-ready facts; scores are exact."""
        return {
            "query": self.query,
            "documents": len(self.documents),
            "top_n": self.top_n,
            "orderings": [
                {
                    "label": ordering.label,
                    **facts_of(Scores(()) if ordering.scores is None else ordering.scores),
                    "order": list(ordering.order),
                    "scores": None if ordering.scores is None else list(ordering.scores),
                }
                for ordering in self.orderings
            ],
            "agreement": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "kendall_tau": pair.tau,
                    "rbo": pair.rbo,
                    "overlap": pair.overlap,
                }
                for pair in self.agreements
            ],
        }

    def to_html(self) -> str:
        """Return the comparison as an HTML page without scripts or other files."""
        return as_page(self)

    def __repr__(self) -> str:
        labels = ", ".join(ordering.label for ordering in self.orderings[1:])
        return f"<Comparison {len(self.documents)} documents by {labels}>"

    def __rich__(self) -> Group:
        return as_tables(self)

    def _repr_html_(self) -> str:
        return as_chart(self)


def compare(
    query: str | Query,
    documents: Sequence[Document],
    backends: Mapping[str, BackendSpec] | Iterable[BackendSpec],
    *,
    top_n: int = 10,
    ids: Sequence[str] | None = None,
) -> Comparison:
    """Rank the documents with each backend, one after another, and compare the rankings.

    Equal scores keep the first stage's order, as in `rank()`. A backend built from a spec is
    closed before the next one loads, so that large models need not fit into memory side by side.

    Args:
        query: the query; one with an instruction needs backends that take it.
        documents: the candidates, in the first stage's order.
        backends: a list of specs or backends, a single one, or a mapping from labels to them.
        top_n: how many places to show and to count overlaps in.
        ids: a name per document, to show.

    Raises:
        ConfigError: there is no backend, two have the same label, or `top_n`, the number of ids or
            a spec is wrong.
        MissingDependencyError: a backend needs an extra that is not installed.
        UnsupportedInputError: the query or a document can't be scored.
        BackendError: a backend failed.
    """
    check_cut(top_n=top_n, min_score=None)
    if top_n < 1:
        raise ConfigError("`top_n` must be at least 1 to show anything, not 0")
    if ids is not None and len(ids) != len(documents):
        raise ConfigError(f"there are {len(documents)} documents but {len(ids)} ids")
    specs = label_backends(backends)
    if FIRST_STAGE in specs:
        raise ConfigError(
            f"no backend may be called {FIRST_STAGE!r}: that names the documents' order"
        )
    results = {label: rerank(query, documents, backend=spec) for label, spec in specs.items()}
    positions = tuple(range(len(documents)))
    first = Ordering(FIRST_STAGE, None, positions, tuple(n + 1 for n in positions))
    names = _short_labels(results, chosen=isinstance(backends, Mapping))
    orderings = (first, *(_ordering(names[label], results[label]) for label in results))
    top = min(top_n, len(documents))
    return Comparison(
        query=(query.text or "") if isinstance(query, Query) else query,
        documents=tuple(documents),
        ids=None if ids is None else tuple(ids),
        top_n=top,
        orderings=orderings,
        agreements=tuple(_agreement(a, b, top) for a, b in combinations(orderings, 2)),
    )


def _short_labels(results: Mapping[str, RerankResult], *, chosen: bool) -> dict[str, str]:
    """Shorten the labels to kind and model, if that keeps them unique."""
    if chosen:
        return {label: excerpt(label) for label in results}
    short = {label: result.scores.label or result.label for label, result in results.items()}
    if len({*short.values()}) == len(short):
        return short
    return {label: excerpt(label) for label in results}


def _ordering(label: str, result: RerankResult) -> Ordering:
    ranks = [0] * len(result.documents)
    for item in result:
        ranks[item.index] = item.rank
    return Ordering(label, result.scores, tuple(item.index for item in result), tuple(ranks))


def _agreement(one: Ordering, other: Ordering, top_n: int) -> Agreement:
    tau = kendall_tau(_scores(one), _scores(other))
    rbo = rank_biased_overlap(one.order, other.order)
    overlap = len({*one.order[:top_n]} & {*other.order[:top_n]})
    return Agreement(one.label, other.label, tau, rbo, overlap)


def _scores(ordering: Ordering) -> Sequence[float]:
    return [-rank for rank in ordering.ranks] if ordering.scores is None else ordering.scores
