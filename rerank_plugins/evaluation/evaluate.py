"""`evaluate()`: how backends rank a dataset, compared with the first stage's order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError
from rerank_plugins.evaluation.datasets.dataset import Dataset
from rerank_plugins.evaluation.datasets.load import load_dataset
from rerank_plugins.evaluation.labels import label_backends
from rerank_plugins.evaluation.metrics import DEFAULT_METRICS, measure, metric_name
from rerank_plugins.evaluation.results import DepthResult, Evaluation, Latency, PairedTest, System
from rerank_plugins.evaluation.scoring import Scored, reranked, score_candidates
from rerank_plugins.evaluation.statistics import Estimate, estimates, holm, paired_p_values
from rerank_plugins.spec import BackendSpec, load_backend

__all__ = ["DEFAULT_DEPTH", "ScoredBackend", "evaluate", "score_backends", "summarise", "sweep"]

DEFAULT_DEPTH = 100
_SWEEP = (5, 10, 20, 50, 100, 200, 500, 1000)


def evaluate(
    dataset: Dataset | str | os.PathLike[str],
    backends: Mapping[str, BackendSpec] | Iterable[BackendSpec],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    depth: int = DEFAULT_DEPTH,
    depths: Sequence[int] | None = None,
    scores: str | os.PathLike[str] | None = None,
    seed: int = 0,
    on_query: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Rerank a dataset's candidates with each backend; measure its quality and its latency.

    Candidates are scored once, down to `depth`; shallower depths reuse those scores. Candidates
    below a depth keep their order behind the reranked ones, so that recall stays comparable.
    Equal scores keep the first stage's order. A backend built from a spec is closed before the
    next one scores, so that large models need not fit into memory side by side.

    Args:
        dataset: a `Dataset`, or anything that `load_dataset()` takes.
        backends: label → backend or spec, or a list of them, or one.
        metrics: what to measure; the first one decides what reports call better or worse.
        depth: how many candidates to rerank.
        depths: shallower depths to report as well; None: 5, 10, 20, 50, … below `depth`.
        scores: a folder that keeps scores, so that an interrupted evaluation can resume.
        seed: the seed of the intervals and tests.
        on_query: called after each query of each backend, to show progress.

    Raises:
        ConfigError: a setting is wrong, or there is no backend.
        MissingDependencyError: a backend, or BM25 for the dataset, needs an extra that is not
            installed.
        DataError: the dataset can't be read or used.
        BackendError: a backend failed.
    """
    specs = label_backends(backends)
    if isinstance(metrics, str):
        raise ConfigError(f"`metrics` must be a list of names, as in [{metrics!r}]")
    names = tuple(dict.fromkeys(map(metric_name, metrics)))
    if not names:
        raise ConfigError("`metrics` is empty; name one, as in MRR@10")
    reported = sweep(depth, depths)
    data = load_dataset(dataset, depth=depth)
    folder = None if scores is None else Path(scores)
    # Building is cheap, and finds a wrong spec before the first backend scores.
    built = {label: load_backend(spec) for label, spec in specs.items()}
    owned = {label for label, backend in built.items() if backend is not specs[label]}
    (scored,) = score_backends(
        built, [(data, reported)], owned=owned, folder=folder, on_query=on_query
    )
    return summarise(data, scored, metrics=names, depths=reported, seed=seed)


def sweep(depth: int, depths: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the depths to report, ascending; the last is `depth`.

    Raises:
        ConfigError: one is not an integer of at least 1, or is deeper than `depth`.
    """
    for value in (depth, *(depths or ())):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= depth:
            raise ConfigError(
                f"a depth must be an integer from 1 to the deepest, {depth!r}, not {value!r}"
            )
    shallower = [below for below in _SWEEP if below < depth] if depths is None else depths
    return tuple(sorted({*shallower, depth}))


@dataclass(frozen=True, slots=True)
class ScoredBackend:
    """A backend's scores for the candidates of a dataset."""

    label: str
    """What reports call the backend."""
    name: str
    """The backend's name."""
    queries: Mapping[str, Scored]
    """Query id → the scores of its candidates."""


def score_backends(
    backends: Mapping[str, Backend],
    datasets: Sequence[tuple[Dataset, Sequence[int]]],
    *,
    owned: Iterable[str],
    folder: Path | None = None,
    on_query: Callable[[], object] = lambda: None,
) -> list[list[ScoredBackend]]:
    """Score every dataset with one backend after the other; return a list per dataset.

    Args:
        backends: label → backend.
        datasets: datasets with the depths to score, ascending.
        owned: labels of the backends to close; each is closed before the next one scores.
        folder: where scores are kept.
        on_query: called after each query of each backend.

    Raises:
        ConfigError: `folder` can't be written.
        BackendError: a backend failed.
    """
    results: list[list[ScoredBackend]] = [[] for _ in datasets]
    unclosed = set(owned)
    try:
        for label, backend in backends.items():
            for (data, depths), scored in zip(datasets, results, strict=True):
                queries = score_candidates(backend, data, depths, folder=folder, on_query=on_query)
                scored.append(ScoredBackend(label, backend.name, queries))
            if label in unclosed:
                unclosed.remove(label)
                backend.close()
    finally:
        for label in unclosed:
            backends[label].close()
    return results


def summarise(
    data: Dataset,
    scored: Sequence[ScoredBackend],
    *,
    metrics: Sequence[str],
    depths: Sequence[int],
    seed: int,
) -> Evaluation:
    """Turn scores into metrics with intervals, paired tests and latencies.

    Args:
        data: the dataset.
        scored: its scores, by each backend.
        metrics: names as `metric_name()` returns them; the first one decides.
        depths: the depths to report, ascending; the candidates are scored down to the last.
        seed: the seed of the intervals and tests.
    """
    labels = [backend.label for backend in scored]
    clash = data.first_stage in labels
    first_stage = f"{data.first_stage} (before)" if clash else data.first_stage
    measured = {(first_stage, 0): measure(data.qrels, data.candidates, metrics)}
    deepest_rankings: dict[str, dict[str, tuple[str, ...]]] = {}
    for backend in scored:
        for depth in depths:
            rankings = reranked(data, backend.queries, depth)
            measured[backend.label, depth] = measure(data.qrels, rankings, metrics)
            deepest_rankings[backend.label] = rankings
    table = _Table.of(data, measured, metrics, seed)
    systems = [table.system(first_stage, data.first_stage, 0, data.candidates)]
    for backend in scored:
        by_depth = tuple(
            DepthResult(depth, table.figures_of(backend.label, depth), _latency(backend, depth))
            for depth in depths
        )
        rankings = deepest_rankings[backend.label]
        systems.append(table.system(backend.label, backend.name, depths[-1], rankings, by_depth))
    tests = tuple(_paired_tests(systems, metrics, seed))
    return Evaluation(data, tuple(metrics), depths[-1], tuple(systems), tests, seed)


def _latency(backend: ScoredBackend, depth: int) -> Latency | None:
    timings = (scored.timing for scored in backend.queries.values())
    return Latency.of([timing for timing in timings if timing and timing.depth == depth])


@dataclass(frozen=True, slots=True)
class _Table:
    """Values per query and their means, by label, depth and metric."""

    metrics: Sequence[str]
    columns: Mapping[tuple[str, int, str], Sequence[float]]
    figures: Mapping[tuple[str, int, str], Estimate]

    @classmethod
    def of(
        cls,
        data: Dataset,
        measured: Mapping[tuple[str, int], Mapping[str, Mapping[str, float]]],
        metrics: Sequence[str],
        seed: int,
    ) -> _Table:
        columns = {
            (label, depth, metric): [values[metric][query] for query in data.queries]
            for (label, depth), values in measured.items()
            for metric in metrics
        }
        means = estimates(list(columns.values()), seed=seed)
        return cls(metrics, columns, dict(zip(columns, means, strict=True)))

    def figures_of(self, label: str, depth: int) -> dict[str, Estimate]:
        return {metric: self.figures[label, depth, metric] for metric in self.metrics}

    def system(
        self,
        label: str,
        name: str,
        depth: int,
        rankings: Mapping[str, Sequence[str]],
        by_depth: tuple[DepthResult, ...] = (),
    ) -> System:
        values = {metric: self.columns[label, depth, metric] for metric in self.metrics}
        return System(label, name, values, self.figures_of(label, depth), rankings, by_depth)


def _paired_tests(
    systems: Sequence[System], metrics: Sequence[str], seed: int
) -> Iterator[PairedTest]:
    pairs = [(system, systems[0]) for system in systems[1:]]
    pairs += [(second, first) for first, second in combinations(systems[1:], 2)]
    for metric in metrics:
        differences = [
            [a - b for a, b in zip(one.values[metric], other.values[metric], strict=True)]
            for one, other in pairs
        ]
        p_values = paired_p_values(differences, seed=seed)
        means = estimates(differences, seed=seed)
        for (one, other), column, mean, p_value, adjusted in zip(
            pairs, differences, means, p_values, holm(p_values), strict=True
        ):
            yield PairedTest(
                metric,
                one.label,
                other.label,
                mean,
                p_value,
                adjusted,
                sum(value > 0 for value in column),
                sum(value < 0 for value in column),
            )
