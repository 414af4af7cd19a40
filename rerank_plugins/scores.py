"""`Scores`: one number per document, and what is known about how they came about."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple, TypeAlias, TypeVar, overload

from rerank_plugins.errors import InvalidResponse

__all__ = ["Passage", "Scale", "Scores", "Usage", "check_results", "check_scores"]

Scale: TypeAlias = Literal["probability", "logit", "similarity", "unknown"]
"""`"probability"`: 0 to 1. `"logit"`: any finite number. `"similarity"`: a cosine, or what else
compares vectors, of a range that the model has. `"unknown"`: nothing is promised."""


_Fact = TypeVar("_Fact")

_UNORDERED = (Mapping, AbstractSet, bytes, bytearray)
"""What has a length and is no list of scores: its numbers are something else."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What scoring cost, as far as the backend counts it; two of them add up."""

    tokens: int | None = None
    """Tokens that the model read; None if nobody counted."""
    search_units: int | None = None
    """What a vendor bills: one query with up to so many documents; None if it bills otherwise."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(_sum(self.tokens, other.tokens), _sum(self.search_units, other.search_units))


class Passage(NamedTuple):
    """A part of a document's text, as character positions: `text[start:end]`."""

    start: int
    end: int

    def moved(self, by: int) -> Passage:
        """Return its place in a text that has so many more characters in front."""
        return Passage(self.start + by, self.end + by)


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class Scores(Sequence[float]):
    """The scores of one request, in the order of its documents, with what is known about them.

    A sequence of finite floats that equals a list of the same floats. Facts are kept per document
    by its position; a fact that nobody knows is empty or None.

    Raises:
        InvalidResponse: a value is not a finite number, or a fact belongs to no document.
    """

    values: tuple[float, ...]
    """The scores alone."""
    backend: str | None
    """The `name` of the backend that scored; of a chain, the one at its end."""
    label: str | None
    """Its `label`: kind and model, for people."""
    model: str | None
    """Its `model`."""
    scale: Scale
    """The range of the scores."""
    truncated: frozenset[int]
    """Positions of documents of which the model read a part only."""
    read: Mapping[int, float]
    """Position → the share that was read, 0 to 1, of truncated documents where it is known."""
    windows: Mapping[int, int]
    """Position → in how many windows a document was read, of those that were read in several."""
    passages: Mapping[int, Passage]
    """Position → the passage that made the score, where one did."""
    highlights: Mapping[int, Passage]
    """Position → the sentence of that passage that matches best, where the model tells it."""
    cached: int
    """How many scores come from a cache."""
    usage: Usage | None
    """What scoring cost; None if nobody counted."""

    def __init__(
        self,
        values: Iterable[float],
        *,
        backend: str | None = None,
        label: str | None = None,
        model: str | None = None,
        scale: Scale = "unknown",
        truncated: Iterable[int] = (),
        read: Mapping[int, float] | None = None,
        windows: Mapping[int, int] | None = None,
        passages: Mapping[int, Passage] | None = None,
        highlights: Mapping[int, Passage] | None = None,
        cached: int = 0,
        usage: Usage | None = None,
    ) -> None:
        keep = object.__setattr__  # the class is frozen
        keep(self, "values", _finite(tuple(values)))
        keep(self, "backend", backend)
        keep(self, "label", label)
        keep(self, "model", model)
        keep(self, "scale", scale)
        keep(self, "truncated", frozenset(truncated))
        keep(self, "read", {} if read is None else dict(read))
        keep(self, "windows", {} if windows is None else dict(windows))
        keep(self, "passages", {} if passages is None else dict(passages))
        keep(self, "highlights", {} if highlights is None else dict(highlights))
        keep(self, "cached", cached)
        keep(self, "usage", usage)
        if self.truncated or self.read or self.windows or self.passages or self.highlights:
            self._check_positions()

    @property
    def chunked(self) -> frozenset[int]:
        """Positions of documents that were read in several windows."""
        return frozenset(self.windows)

    def _check_positions(self) -> None:
        facts = (self.truncated, self.read, self.windows, self.passages, self.highlights)
        for position in chain.from_iterable(facts):
            if position not in range(len(self.values)):
                raise InvalidResponse(
                    f"a fact about document {position!r} of {len(self.values)} scores"
                )

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, position: int) -> float: ...
    @overload
    def __getitem__(self, position: slice) -> list[float]: ...
    def __getitem__(self, position: int | slice) -> float | list[float]:
        if isinstance(position, slice):
            return list(self.values[position])
        return self.values[position]

    def __iter__(self) -> Iterator[float]:
        return iter(self.values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Scores):
            return self.values == other.values
        if isinstance(other, Sequence) and not isinstance(other, str | bytes):
            return self.values == tuple(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    def __repr__(self) -> str:
        return f"Scores({list(self.values)})"

    def take(self, positions: Sequence[int]) -> Scores:
        """Return the scores of the documents at `positions`, in that order.

        A position may stand there twice, as for documents that are equal and scored once. `cached`
        and `usage` stay as they are: they belong to the work, not to a document.
        """
        places = list(enumerate(positions))
        return Scores(
            [self.values[position] for position in positions],
            backend=self.backend,
            label=self.label,
            model=self.model,
            scale=self.scale,
            truncated=[new for new, old in places if old in self.truncated],
            read=_at(self.read, places),
            windows=_at(self.windows, places),
            passages=_at(self.passages, places),
            highlights=_at(self.highlights, places),
            cached=self.cached,
            usage=self.usage,
        )

    @classmethod
    def merge(cls, count: int, parts: Iterable[tuple[Sequence[int], Scores]]) -> Scores:
        """Join the scores of documents that were scored apart.

        Args:
            count: how many documents there are.
            parts: the scores of some documents each, and the positions of these; together they
                cover each position once. Who scored is what the first part says that says it.

        Returns:
            one score per document; `cached` and `usage` are sums.
        """
        values = [math.nan] * count
        truncated: set[int] = set()
        read: dict[int, float] = {}
        windows: dict[int, int] = {}
        passages: dict[int, Passage] = {}
        highlights: dict[int, Passage] = {}
        backend = label = model = usage = None
        scale: Scale = "unknown"
        cached = 0
        for positions, scores in parts:
            for position, value in zip(positions, scores.values, strict=True):
                values[position] = value
            truncated.update(positions[old] for old in scores.truncated)
            read.update((positions[old], share) for old, share in scores.read.items())
            windows.update((positions[old], number) for old, number in scores.windows.items())
            passages.update((positions[old], span) for old, span in scores.passages.items())
            highlights.update((positions[old], span) for old, span in scores.highlights.items())
            if backend is None and scores.backend is not None:
                backend, label = scores.backend, scores.label
                model, scale = scores.model, scores.scale
            cached += scores.cached
            if scores.usage is not None:
                usage = scores.usage if usage is None else usage + scores.usage
        return cls(
            values,
            backend=backend,
            label=label,
            model=model,
            scale=scale,
            truncated=truncated,
            read=read,
            windows=windows,
            passages=passages,
            highlights=highlights,
            cached=cached,
            usage=usage,
        )


def _at(facts: Mapping[int, _Fact], places: Iterable[tuple[int, int]]) -> dict[int, _Fact]:
    """Return the facts of old positions at new ones."""
    return {new: facts[old] for new, old in places if old in facts} if facts else {}


def _finite(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return values as finite Python floats; for those that are, at the speed of C."""
    if set(map(type, values)) <= {float} and all(map(math.isfinite, values)):
        return values
    return tuple(check_scores(values))


def check_scores(scores: Sequence[object], count: int | None = None) -> list[float]:
    """Return `scores` as Python floats if there is one finite number per document.

    Without `count` there may be any number. Accepts anything with `__float__` except booleans and
    strings, so NumPy scalars pass.

    Raises:
        InvalidResponse: it is no list, the count differs, or a score is not a finite number.
    """
    try:
        length = len(scores)
    except TypeError:  # also an array without dimensions
        length = None
    if length is None or (type(scores) is not list and isinstance(scores, _UNORDERED)):
        raise InvalidResponse(f"got `{type(scores).__name__}`, not a list of scores")
    if count is not None and length != count:
        raise InvalidResponse(f"got {length} scores for {count} documents")
    floats = {*map(type, scores)} == {float}
    if floats and all(map(math.isfinite, scores)):
        return [*scores]  # no call for each, as below
    for position, score in enumerate(scores):
        if not is_finite(score):
            raise InvalidResponse(
                f"score {position} of {length} is {score!r}, which is not a finite number"
            )
    return [float(score) for score in scores]  # type: ignore[arg-type]  # checked just above


def check_results(results: object, count: int) -> list[Sequence[object]]:
    """Return what a `score_many` answered to `count` requests: one result for each, unread.

    Raises:
        InvalidResponse: it is nothing that can be iterated over, or their number differs.
    """
    if not isinstance(results, Iterable):
        raise InvalidResponse(f"got `{type(results).__name__}`, not a list of lists of scores")
    listed = list(results)
    if len(listed) != count:
        raise InvalidResponse(f"got {len(listed)} lists of scores for {count} requests")
    return listed


def is_finite(value: object) -> bool:
    """Return whether `value` is a finite number: anything with `__float__`, but no boolean."""
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def _sum(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other
