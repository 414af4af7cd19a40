"""`evaluate()`: what backends bring on a dataset, beside the order that was there before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rerank_plugins.errors import ConfigError
from rerank_plugins.evaluation.datasets.dataset import Dataset
from rerank_plugins.evaluation.datasets.load import load_dataset
from rerank_plugins.evaluation.labels import labelled
from rerank_plugins.evaluation.metrics import DEFAULT_METRICS, measure, metric_name
from rerank_plugins.evaluation.results import Cut, Evaluation, Latency, PairedTest, System
from rerank_plugins.evaluation.scoring import Scored, reranked, score_candidates
from rerank_plugins.evaluation.statistics import Estimate, estimates, holm, paired_p_values
from rerank_plugins.spec import BackendSpec, load_backend

__all__ = ["DEFAULT_DEPTH", "evaluate", "sweep"]

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
    """Rerank a dataset's candidates with each backend, and measure what that brings and costs.

    Candidates are scored once, down to `depth`; the shallower depths are cut from that. What is
    not reranked keeps its order behind what is, so that recall stays comparable. Equal scores
    keep the first stage's order.

    Args:
        dataset: a `Dataset`, or what `load_dataset()` takes.
        backends: what to evaluate: label → backend or spec, or a list of them, or one.
        metrics: the first one decides what reports call better or worse.
        depth: how many candidates to rerank.
        depths: shallower depths to report as well; None: 5, 10, 20, 50, … below `depth`.
        scores: a folder that keeps scores, so that an interrupted evaluation can go on.
        seed: of the intervals and tests.
        on_query: called after each query of each backend, to show progress.

    Raises:
        ConfigError: a setting is wrong, or there is no backend.
        MissingDependencyError: a backend, or BM25 for the dataset, needs an extra that is not
            installed.
        UnsupportedInputError: the dataset can't be read or used.
        BackendError: a backend failed.
    """
    named = labelled(backends)
    if isinstance(metrics, str):
        raise ConfigError(f"`metrics` must be a list of names, as in [{metrics!r}]")
    names = tuple(dict.fromkeys(metric_name(metric) for metric in metrics))
    if not names:
        raise ConfigError("`metrics` is empty; name one, as in MRR@10")
    wanted = sweep(depth, depths)
    data = load_dataset(dataset, depth=depth)
    before = {query: tuple(ids) for query, ids in data.candidates.items()}
    measured = measure(data.qrels, before, names)
    built: list[tuple[str, str, dict[str, Scored]]] = []
    for label, spec in named.items():
        backend = load_backend(spec)
        folder = None if scores is None else Path(scores)
        try:
            found = score_candidates(backend, data, wanted, folder=folder, on_query=on_query)
            built.append((label, backend.name, found))
        finally:
            if backend is not spec:  # ours to close
                backend.close()
    return _evaluated(data, names, wanted, measured=measured, built=built, seed=seed)


def sweep(depth: int, depths: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the depths to report, ascending; the last is `depth`.

    Raises:
        ConfigError: one is not an integer of at least 1, or deeper than `depth`.
    """
    for value in (depth, *(depths or ())):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= depth:
            raise ConfigError(
                f"a depth must be an integer from 1 to the deepest, {depth!r}, not {value!r}"
            )
    chosen = [below for below in _SWEEP if below < depth] if depths is None else depths
    return tuple(sorted({*chosen, depth}))


def _evaluated(
    data: Dataset,
    metrics: tuple[str, ...],
    depths: Sequence[int],
    *,
    measured: Mapping[str, Mapping[str, float]],
    built: Sequence[tuple[str, str, Mapping[str, Scored]]],
    seed: int,
) -> Evaluation:
    """Work out figures, intervals and tests from all scores."""
    deepest = depths[-1]
    per_cut = {
        (label, depth): measure(data.qrels, reranked(data, found, depth), metrics)
        for label, _, found in built
        for depth in depths
    }
    label_before = _first_stage_label(data, [label for label, _, _ in built])
    columns: dict[tuple[str, int, str], list[float]] = {}
    for (label, depth), values in {(label_before, 0): measured, **per_cut}.items():
        for metric in metrics:
            columns[label, depth, metric] = [values[metric][query] for query in data.queries]
    figures = dict(zip(columns, estimates(list(columns.values()), seed=seed), strict=True))
    table = _Table(metrics, columns, figures)
    systems = [table.system(label_before, data.first_stage, 0, data.candidates)]
    for label, name, found in built:
        cuts = tuple(
            Cut(
                depth,
                table.figures_of(label, depth),
                Latency.of(
                    [s.timing for s in found.values() if s.timing and s.timing.depth == depth]
                ),
            )
            for depth in depths
        )
        rankings = reranked(data, found, deepest)
        systems.append(table.system(label, name, deepest, rankings, cuts))
    return Evaluation(
        data,
        metrics,
        deepest,
        tuple(systems),
        tuple(_comparisons(systems, metrics, seed)),
        seed,
    )


def _first_stage_label(data: Dataset, labels: Sequence[str]) -> str:
    return data.first_stage if data.first_stage not in labels else f"{data.first_stage} (before)"


@dataclass(frozen=True, slots=True)
class _Table:
    """Values per query and their means, by label, depth and metric."""

    metrics: Sequence[str]
    columns: Mapping[tuple[str, int, str], Sequence[float]]
    figures: Mapping[tuple[str, int, str], Estimate]

    def figures_of(self, label: str, depth: int) -> dict[str, Estimate]:
        return {metric: self.figures[label, depth, metric] for metric in self.metrics}

    def system(
        self,
        label: str,
        name: str,
        depth: int,
        rankings: Mapping[str, Sequence[str]],
        cuts: tuple[Cut, ...] = (),
    ) -> System:
        values = {metric: self.columns[label, depth, metric] for metric in self.metrics}
        return System(label, name, values, self.figures_of(label, depth), rankings, cuts)


def _comparisons(
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
