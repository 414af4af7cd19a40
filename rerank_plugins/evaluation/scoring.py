"""Score a dataset's candidates once, with timings, so that an interrupted run can resume."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError, InvalidResponse
from rerank_plugins.evaluation.datasets.dataset import Dataset
from rerank_plugins.ranking import rank
from rerank_plugins.scores import check_scores

__all__ = ["Scored", "Timing", "reranked", "score_candidates"]


@dataclass(frozen=True, slots=True)
class Timing:
    """One timed call of a backend."""

    depth: int
    """The depth, in candidates."""
    documents: int
    """Documents in the call; fewer than `depth` if the query has fewer."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a query's candidates, and the time of one call."""

    by_depth: Mapping[int, list[float]]
    """Depth → one score for each candidate down to that depth."""
    timing: Timing | None
    """None for a query without candidates."""

    def down_to(self, depth: int) -> list[float]:
        """Return the scores of the candidates down to a depth."""
        if depth in self.by_depth:
            return self.by_depth[depth]
        return self.by_depth[max(self.by_depth)][:depth]


def score_candidates(
    backend: Backend,
    dataset: Dataset,
    depths: Sequence[int],
    *,
    folder: Path | None = None,
    on_query: Callable[[], object] = lambda: None,
) -> dict[str, Scored]:
    """Score each query's candidates down to the deepest depth, and time it.

    Every second query is scored in one timed call at full depth. For the others, the timed call
    takes a shallower depth, each in turn, and a second call scores the remaining candidates. So
    each depth is timed on documents that are new to the backend, and no pair is scored twice. A
    listwise backend (`pointwise` is False) scores each depth anew instead, since its scores depend
    on the other documents.

    Args:
        backend: the backend; its first call, which loads the model, is not timed.
        dataset: the queries and their candidates.
        depths: the depths to score, ascending.
        folder: where scores are kept, query by query; a query that is there is not scored again. A
            file belongs to one backend and one dataset's digest.
        on_query: called after each query, to show progress.

    Raises:
        ConfigError: `folder` can't be written.
        RerankError: the backend failed; the scores so far stay in `folder`.
    """
    journal = _Journal(folder, backend, dataset) if folder is not None else None
    scored = journal.read(depths, pointwise=backend.pointwise) if journal is not None else {}
    for _ in scored:
        on_query()
    unscored = [query for query in dataset.queries if query not in scored]
    if (first := next(filter(dataset.candidates.get, unscored), None)) is not None:
        backend.score(dataset.queries[first], ["warm-up"])
    turns = _turns(depths)
    for number, query in enumerate(dataset.queries):
        if query in scored:
            continue
        scored[query] = _scored(backend, dataset, query, depths, turns[number % len(turns)])
        if journal is not None:
            journal.add(query, scored[query])
        on_query()
    return {query: scored[query] for query in dataset.queries}


def reranked(
    dataset: Dataset, scored: Mapping[str, Scored], depth: int
) -> dict[str, tuple[str, ...]]:
    """Return each query's candidates with the first `depth` of them reranked.

    The others keep their order behind them; equal scores keep the first stage's order.
    """
    rankings = {}
    for query, scores in scored.items():
        ids = dataset.candidates[query]
        top = rank(scores.down_to(depth))
        rankings[query] = (*(ids[item.index] for item in top), *ids[depth:])
    return rankings


def _turns(depths: Sequence[int]) -> list[int]:
    """Return the depths to time, query after query: the deepest every other time."""
    *shallow, deepest = depths
    return [depth for other in shallow for depth in (deepest, other)] or [deepest]


def _scored(
    backend: Backend, dataset: Dataset, query: str, depths: Sequence[int], timed: int
) -> Scored:
    text, deepest = dataset.queries[query], depths[-1]
    documents = dataset.texts(query, deepest)
    if not documents:
        return Scored({depth: [] for depth in depths}, None)
    first = timed if backend.pointwise else deepest
    start = time.perf_counter()
    scores = backend.score(text, documents[:first])
    seconds = time.perf_counter() - start
    values = check_scores(scores, len(documents[:first]))
    timing = Timing(first, len(values), seconds)
    if backend.pointwise:
        rest = documents[first:]
        if rest:
            values = [*values, *check_scores(backend.score(text, rest), len(rest))]
        return Scored({deepest: values}, timing)
    by_depth = {
        depth: check_scores(backend.score(text, documents[:depth]), len(documents[:depth]))
        for depth in depths[:-1]
    }
    return Scored(by_depth | {deepest: values}, timing)


class _Journal:
    """A file of scores, one line per query; incomplete lines are ignored."""

    def __init__(self, folder: Path, backend: Backend, dataset: Dataset) -> None:
        identity = _identity(backend)
        self._about = {"backend": identity, "dataset": dataset.name, "digest": dataset.digest}
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.path = folder / f"{dataset.digest[:16]}-{name}.jsonl"
        self._dataset = dataset

    def read(self, depths: Sequence[int], *, pointwise: bool) -> dict[str, Scored]:
        """Return the queries that are scored deeply enough."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise ConfigError(f"can't read {str(self.path)!r}: {exc.strerror or exc}") from exc
        entries = {}
        for line in data.splitlines():
            try:
                fields = json.loads(line)
                query = fields["query"]
                if query in self._dataset.queries:
                    scored = _entry(fields)
                    if self._reaches(scored, query, depths, pointwise=pointwise):
                        entries[query] = scored
            except (AttributeError, KeyError, TypeError, ValueError, InvalidResponse):
                continue  # the first line, or one that was cut off
        return entries

    def _reaches(
        self, scored: Scored, query: str, depths: Sequence[int], *, pointwise: bool
    ) -> bool:
        """Return whether an entry has scores for every depth."""
        candidates = len(self._dataset.candidates[query])
        if pointwise:
            deepest = max(map(len, scored.by_depth.values()))
            return deepest >= min(depths[-1], candidates)
        return all(
            len(scored.by_depth.get(depth, ())) == min(depth, candidates) for depth in depths
        )

    def add(self, query: str, scored: Scored) -> None:
        """Append a query's scores."""
        entry = {
            "query": query,
            "timing": asdict(scored.timing) if scored.timing else None,
            "scores": {str(depth): list(scores) for depth, scores in scored.by_depth.items()},
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if file.tell() == 0:
                    file.write(json.dumps(self._about).encode() + b"\n")
                # A line break comes first: a kill may have cut off the line before.
                file.write(b"\n" + json.dumps(entry).encode() + b"\n")
        except OSError as exc:
            raise ConfigError(f"can't write {str(self.path)!r}: {exc.strerror or exc}") from exc


def _identity(backend: Backend) -> str:
    """Return the name of a backend; for a chain of several, with their settings.

    The name of a fallback chain only lists labels, so that it loads no model.
    """
    leaves = [leaf for leaf in backend.walk() if not leaf.children]
    if len(leaves) == 1:
        return backend.name
    return json.dumps([backend.name, *map(_settings, leaves)])


def _settings(leaf: Backend) -> object:
    try:
        return leaf.to_spec()
    except ConfigError:  # a literal key, or a class of the user's own
        return leaf.name


def _entry(fields: Mapping[str, Any]) -> Scored:
    """Read an entry from a line of any form."""
    timing = Timing(**fields["timing"]) if fields["timing"] else None
    by_depth = {
        int(depth): check_scores(scores, len(scores)) for depth, scores in fields["scores"].items()
    }
    return Scored(by_depth, timing)
