"""From scores to an order: the only place that sorts and cuts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias

from rerank_plugins._internal.checks import check_integer, check_number
from rerank_plugins._internal.near_duplicates import NearDuplicates
from rerank_plugins._internal.token_count import TokenCount, check_count_tokens, counter
from rerank_plugins.content import Content, Document
from rerank_plugins.errors import ConfigError, UnsupportedInputError
from rerank_plugins.scores import Scores, check_scores, is_finite

__all__ = [
    "Cutoff",
    "CutoffBy",
    "Ranked",
    "Ranking",
    "Selection",
    "TokenCount",
    "check_cut",
    "rank",
]

CutoffBy: TypeAlias = Literal["top_n", "min_score", "min_gap", "max_tokens"]
"""A setting that can end a ranking."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document's place in a ranking."""

    index: int
    """Position of the document in the list that was scored, from 0."""
    score: float
    """Its score, on the scale of the backend."""


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Why a ranking ends where it does, and what was left out of it."""

    by: CutoffBy | None = None
    """The setting that ended it; None: it goes down to the last document."""
    tokens: int | None = None
    """Tokens of the documents that were kept; None without `max_tokens`."""
    tokens_estimated: bool = False
    """Whether that is an estimate, since there was no `count_tokens`."""
    duplicates: Mapping[int, int] = field(default_factory=dict)
    """Index of each document that was left out as a near-duplicate → that of the one it repeats."""

    def as_json(self) -> dict[str, object]:
        """Return these facts JSON-ready."""
        pairs = [{"index": index, "of": of} for index, of in self.duplicates.items()]
        return {**asdict(self), "duplicates": pairs}


class Ranking(list[Ranked]):
    """The documents that were kept, best first; a list that knows why it ends.

    Args:
        ranked: the places.
        cutoff: why there are no more.
    """

    def __init__(self, ranked: Iterable[Ranked] = (), cutoff: Cutoff | None = None) -> None:
        super().__init__(ranked)
        self.cutoff = Cutoff() if cutoff is None else cutoff


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """How many documents to keep; see `rank()`."""

    top_n: int | None = None
    min_score: float | None = None
    min_gap: float | None = None
    max_tokens: int | None = None
    count_tokens: TokenCount = None
    distinct: float | None = None

    def check(self) -> None:
        """Check the settings; reads no file.

        Raises:
            ConfigError: one has a wrong type or is out of range.
        """
        check_cut(top_n=self.top_n, min_score=self.min_score)
        check_number("min_gap", self.min_gap, above=0, optional=True)
        check_integer("max_tokens", self.max_tokens, least=0, optional=True)
        check_number("distinct", self.distinct, above=0, most=1, optional=True)
        check_count_tokens(self.count_tokens)
        if self.count_tokens is not None and self.max_tokens is None:
            raise ConfigError("`count_tokens` needs `max_tokens`, the number of tokens to fill")

    @property
    def reads_documents(self) -> bool:
        """Whether texts matter, and not scores alone."""
        return self.max_tokens is not None or self.distinct is not None

    def apply(
        self, scores: Sequence[float], documents: Sequence[Document] | None = None
    ) -> Ranking:
        """Return what `rank()` does; the settings are checked already."""
        finite = scores.values if isinstance(scores, Scores) else check_scores(scores)
        order = sorted(range(len(finite)), key=finite.__getitem__, reverse=True)
        return self._cut([Ranked(index, finite[index]) for index in order], documents)

    def _cut(self, ranked: Sequence[Ranked], documents: Sequence[Document] | None) -> Ranking:
        texts = _Texts(self, documents, len(ranked)) if self.reads_documents else None
        kept: list[Ranked] = []
        by: CutoffBy | None = None
        for place, item in enumerate(ranked):
            by = self._end(ranked, place, len(kept))
            if by is None and texts is not None and not texts.is_new(item.index):
                continue
            if by is None and texts is not None and not texts.fits(item.index):
                by = "max_tokens"
            if by is not None:
                break
            kept.append(item)
        return Ranking(kept, Cutoff(by) if texts is None else texts.cutoff(by))

    def _end(self, ranked: Sequence[Ranked], place: int, kept: int) -> CutoffBy | None:
        """Return the setting by which scores alone end the ranking before a place."""
        score = ranked[place].score
        if self.min_score is not None and score < self.min_score:
            return "min_score"
        if self.min_gap is not None and place and ranked[place - 1].score - score >= self.min_gap:
            return "min_gap"
        return "top_n" if kept == self.top_n else None


class _Texts:
    """The texts of one ranking: which are new, and how many fit."""

    def __init__(
        self, selection: Selection, documents: Sequence[Document] | None, count: int
    ) -> None:
        if documents is None or len(documents) != count:
            given = "none" if documents is None else f"{len(documents)}"
            raise ConfigError(
                "`max_tokens` and `distinct` need `documents`, one for each score; got "
                f"{given} for {count}"
            )
        self._documents = documents
        self._estimated = selection.count_tokens is None
        self._most = selection.max_tokens
        self._count = counter(selection.count_tokens)
        self._tokens = 0
        self._known = None if selection.distinct is None else NearDuplicates(selection.distinct)
        self._duplicates: dict[int, int] = {}

    def is_new(self, index: int) -> bool:
        document = self._documents[index]
        if self._known is None or _has_image(document):
            return True
        repeated = self._known.add(index, self._text(index))
        if repeated is not None:
            self._duplicates[index] = repeated
        return repeated is None

    def fits(self, index: int) -> bool:
        if self._most is None:
            return True
        tokens = self._tokens + self._count(self._text(index))
        if tokens > self._most:
            return False
        self._tokens = tokens
        return True

    def _text(self, index: int) -> str:
        document = self._documents[index]
        if isinstance(document, str):
            return document
        if _has_image(document):
            raise UnsupportedInputError(
                f"document {index} holds an image, of which `max_tokens` can't count the tokens; "
                "cut with `top_n` or `min_score`"
            )
        return document.text or ""

    def cutoff(self, by: CutoffBy | None) -> Cutoff:
        tokens = None if self._most is None else self._tokens
        return Cutoff(by, tokens, tokens is not None and self._estimated, self._duplicates)


def _has_image(document: Document) -> bool:
    return isinstance(document, Content) and document.image is not None


def rank(
    scores: Sequence[float],
    documents: Sequence[Document] | None = None,
    *,
    top_n: int | None = None,
    min_score: float | None = None,
    min_gap: float | None = None,
    max_tokens: int | None = None,
    count_tokens: TokenCount = None,
    distinct: float | None = None,
) -> Ranking:
    """Order documents by score, best first; equal scores keep their input order.

    The ranking ends at the first document that a setting does not let pass; `Ranking.cutoff` says
    which setting that was. So each looser setting keeps the same documents and maybe more.

    Args:
        scores: one finite number per document, as `Backend.score` returns them.
        documents: what was scored; `max_tokens` and `distinct` need it.
        top_n: keep at most this many; None keeps all, 0 none.
        min_score: keep scores of at least this, on the scale of the scores.
        min_gap: end where a score lies at least this far below the one before it.
        max_tokens: keep as many documents as fit into so many tokens; never more, so that a
            first document that is too long leaves none. The tokens are those of the documents,
            without what a prompt puts around them.
        count_tokens: what counts them: a function from a text to a number, or the path of a
            `tokenizer.json` or of a folder with one. None estimates, rather too many than too few:
            one for 3 ASCII characters, or for 2 bytes of others.
        distinct: leave out a document of which so large a share stands in a better one, 0 to 1:
            the share of its sequences of five characters, without case and white space. 0.8
            leaves out texts that repeat another with small changes. Images are never left out.

    Raises:
        ConfigError: a setting has a wrong type or is out of range, or `documents` is missing.
        InvalidResponse: it is no list, or a score is not a finite number.
        UnsupportedInputError: `max_tokens` is given, and a document holds an image.
    """
    selection = Selection(
        top_n=top_n,
        min_score=min_score,
        min_gap=min_gap,
        max_tokens=max_tokens,
        count_tokens=count_tokens,
        distinct=distinct,
    )
    selection.check()
    return selection.apply(scores, documents)


def check_cut(*, top_n: int | None, min_score: float | None) -> None:
    """Check the two settings that need scores alone.

    Raises:
        ConfigError: `top_n` is negative or not an integer, or `min_score` is not finite.
    """
    check_integer("top_n", top_n, least=0, optional=True)
    if min_score is not None and not is_finite(min_score):
        raise ConfigError(f"`min_score` must be None or a finite number, not {min_score!r}")
