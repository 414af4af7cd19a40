"""`Dataset`: judged queries with their candidates, checked once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rerank_plugins.errors import ConfigError, DataError

__all__ = ["Dataset", "checked", "counted"]


@dataclass(frozen=True, repr=False)
class Dataset:
    """Judged queries, and for each the documents of a first stage, best first.

    Build one with `load_dataset()`, `from_retriever()` or `checked()`, which ensure what the
    fields promise; the constructor checks nothing.
    """

    name: str
    """The name in reports."""
    queries: Mapping[str, str]
    """Query id → text; each query has at least one relevant document."""
    documents: Mapping[str, str]
    """Document id → text, for at least every candidate."""
    qrels: Mapping[str, Mapping[str, int]]
    """Query id → document id → grade; above 0 is relevant. One entry per query."""
    candidates: Mapping[str, Sequence[str]]
    """Query id → ids of the documents that the first stage retrieved, best first, each once."""
    first_stage: str = "first stage"
    """The name of the first stage."""
    warnings: tuple[str, ...] = ()
    """What was left out or looks wrong, with counts; reports show it."""
    credit: str = ""
    """Origin and licence, where the data requires attribution."""

    def __repr__(self) -> str:
        return (
            f"<Dataset {self.name}: {len(self.queries)} queries, candidates of {self.first_stage}>"
        )

    @cached_property
    def digest(self) -> str:
        """A digest of everything that scores depend on: queries, candidates and their texts."""
        state = hashlib.sha256()
        for query, text in self.queries.items():
            texts = [(document, self.documents[document]) for document in self.candidates[query]]
            state.update(json.dumps([query, text, texts]).encode())
        return state.hexdigest()

    def texts(self, query: str, depth: int) -> list[str]:
        """Return the texts of the first `depth` candidates of a query."""
        return [self.documents[document] for document in self.candidates[query][:depth]]

    def head(self, queries: int) -> Dataset:
        """Return a dataset of the first `queries` queries only.

        Raises:
            ConfigError: `queries` is below 1.
        """
        if queries < 1:
            raise ConfigError(f"at least 1 query must stay, not {queries!r}")
        kept = list(self.queries)[:queries]
        return replace(
            self,
            queries={query: self.queries[query] for query in kept},
            qrels={query: self.qrels[query] for query in kept},
            candidates={query: self.candidates[query] for query in kept},
        )


def checked(
    name: str,
    *,
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    candidates: Mapping[str, Sequence[str]],
    first_stage: str = "first stage",
    warnings: Sequence[str] = (),
    credit: str = "",
) -> Dataset:
    """Return a dataset of these parts; leave out and count what can't be used.

    Left out: queries without a relevant document, since every metric would be 0, and judgements
    of unknown queries. Kept: queries without candidates, which count as 0, and relevant documents
    that are missing from `documents`, which count as not retrieved.

    Raises:
        DataError: no query is left, a query is blank, or a candidate has no text
            or comes twice.
    """
    notes = list(warnings)
    relevant = {
        query: sum(grade > 0 for grade in grades.values()) for query, grades in qrels.items()
    }
    kept = {query: text for query, text in queries.items() if relevant.get(query)}
    unknown = sum(query not in queries for query in qrels)
    if unknown:
        notes.append(
            counted(unknown, "judged query has", "judged queries have", "no text: left out")
        )
    unjudged = len(queries) - len(kept)
    if unjudged:
        notes.append(
            counted(unjudged, "query has", "queries have", "no relevant document: left out")
        )
    if not kept:
        raise DataError(
            f"{name}: no query can be evaluated: {len(queries)} queries, of which "
            f"{len(queries) - unjudged} have a relevant document"
        )
    for query, text in kept.items():
        if not text.strip():
            raise DataError(f"{name}: query {query!r} is blank")
    ranked = {query: tuple(candidates.get(query, ())) for query in kept}
    _check_candidates(name, ranked, documents)
    without_candidates = sum(not ids for ids in ranked.values())
    if without_candidates:
        rest = "no candidates: counted as 0"
        notes.append(counted(without_candidates, "query has", "queries have", rest))
    absent = sum(
        grade > 0 and document not in documents
        for query in kept
        for document, grade in qrels[query].items()
    )
    if absent:
        rest = "not among the documents: counted as not retrieved"
        notes.append(counted(absent, "relevant document is", "relevant documents are", rest))
    return Dataset(
        name,
        kept,
        documents,
        {query: qrels[query] for query in kept},
        ranked,
        first_stage,
        tuple(notes),
        credit,
    )


def _check_candidates(
    name: str, candidates: Mapping[str, Sequence[str]], documents: Mapping[str, str]
) -> None:
    for query, ids in candidates.items():
        seen = set()
        for document in ids:
            if document not in documents:
                raise DataError(
                    f"{name}: candidate {document!r} of query {query!r} has no text; add it to the "
                    "corpus, or take it out of the run"
                )
            if document in seen:
                raise DataError(
                    f"{name}: document {document!r} comes twice among the candidates of {query!r}"
                )
            seen.add(document)


def counted(number: int, one: str, many: str, rest: str) -> str:
    """Return a warning: the number, `one` or `many`, and the rest of the sentence."""
    return f"{number:,} {one if number == 1 else many} {rest}"
