"""`calibrate()`: choose a curve by its loss on queries that it was not fitted on."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, get_args

from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError, DataError
from rerank_plugins.evaluation.calibration.fit import fit
from rerank_plugins.evaluation.calibration.reliability import (
    Bin,
    ScoredPairs,
    bins_of,
    calibration_error,
    log_loss,
)
from rerank_plugins.evaluation.calibration.thresholds import Threshold, of_precision, of_recall
from rerank_plugins.evaluation.datasets.dataset import Dataset
from rerank_plugins.evaluation.datasets.load import load_dataset
from rerank_plugins.evaluation.scoring import score_candidates
from rerank_plugins.evaluation.statistics import Estimate
from rerank_plugins.scores import Scale
from rerank_plugins.wrappers.calibrated import Calibration, Method

if TYPE_CHECKING:
    from rerank_plugins.evaluation.calibration.fit import Array, Indexes

    _Candidates: TypeAlias = tuple[Array, Array, Indexes]

__all__ = ["DEFAULT_DEPTH", "CalibrationReport", "Measured", "calibrate"]

DEFAULT_DEPTH = 30
"""How many candidates of each query are scored."""
_FOLDS = 5
_LEAST_QUERIES = 30
_LEAST_OF_EACH = 50
"""Relevant candidates, and others: four fifths of them are enough for the simple methods."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What probabilities are worth on some sets."""

    sets: str
    """Their names."""
    pairs: int
    relevant: int
    error: Estimate
    """The expected calibration error, with its interval over queries."""
    loss: float
    """The mean negative log-likelihood."""
    bins: tuple[Bin, ...]
    """The reliability diagram."""


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """A calibration, and what it is worth on queries that it was not fitted on."""

    calibration: Calibration
    label: str
    """The label of the backend."""
    depth: int
    """How many candidates of each query were scored."""
    queries: int
    losses: Mapping[str, float]
    """Method → mean loss on held-out queries; `"none"` is that of the scores as they came."""
    untried: Mapping[str, str]
    """Method → why it was not tried."""
    before: Measured
    """The scores as they came; those that are no probabilities are read as such all the same."""
    after: Measured
    """Each query by curves that were fitted without it."""
    tests: tuple[tuple[Measured, Measured], ...]
    """Per other set: before, and after."""
    thresholds: tuple[Threshold, ...]
    """The thresholds that were wished for."""
    warnings: tuple[str, ...] = ()
    """What is noteworthy about the sets."""


def calibrate(
    datasets: Dataset | str | os.PathLike[str] | Iterable[Dataset | str | os.PathLike[str]],
    backend: Backend,
    *,
    tests: Iterable[Dataset | str | os.PathLike[str]] = (),
    method: Method | None = None,
    depth: int = DEFAULT_DEPTH,
    precision: Sequence[float] = (),
    recall: Sequence[float] = (),
    scores: str | os.PathLike[str] | None = None,
    seed: int = 0,
    on_query: Callable[[], object] = lambda: None,
) -> CalibrationReport:
    """Fit a calibration of a backend on judged queries.

    A candidate is relevant if its grade is above 0; one without a judgement is not. So a
    probability is that of being judged relevant among candidates like these: of another first
    stage, depth or kind of text it may be wrong. The method is the simplest one whose loss on
    held-out queries, in five folds, is within one standard error of the lowest.

    Args:
        datasets: what to fit on: a `Dataset`, anything that `load_dataset()` takes, or several.
        backend: a pointwise backend without a calibration.
        tests: other sets, to measure the calibration on.
        method: `"temperature"`, `"platt"` or `"isotonic"`; None chooses.
        depth: how many candidates of each query to score.
        precision: for each, find the lowest score to keep that reaches it.
        recall: for each, find the highest score that still reaches it, among the candidates.
        scores: a folder that keeps scores, so that an interrupted run can resume.
        seed: of the folds and the intervals.
        on_query: called after each query, to show progress.

    Raises:
        ConfigError: a setting is wrong, or the backend is listwise or calibrated already.
        DataError: a set can't be read, or there are too few queries or judgements: 30 queries,
            50 relevant candidates and 50 others, or about 250 of each for the isotonic curve.
        BackendError: the backend failed.
    """
    if not backend.pointwise:
        raise ConfigError(
            f"the scores of {backend!r} depend on the other documents of a request, so no curve "
            "makes probabilities of them"
        )
    if any(isinstance(part.describe().get("calibration"), Mapping) for part in backend.walk()):
        raise ConfigError(
            f"the scores of {backend!r} are calibrated already, and a curve that is fitted on them "
            "would be wrong in the place of the one they have; leave `calibration` out of the "
            "backend to fit"
        )
    for name, wished in (("precision", precision), ("recall", recall)):
        for value in wished:
            if not 0 < value <= 1:
                raise ConfigError(f"`{name}` must be above 0 and at most 1, not {value!r}")
    sources = [datasets] if isinstance(datasets, Dataset | str | os.PathLike) else list(datasets)
    data = [load_dataset(source, depth=depth) for source in sources]
    others = [load_dataset(source, depth=depth) for source in tests]
    folder = None if scores is None else Path(scores)
    scored = [_scored(backend, each, depth, folder, on_query) for each in (*data, *others)]
    whole = _joined(scored[: len(data)])
    _check_enough(whole, data)
    scale = backend.scale
    losses, held_out, untried = _held_out(whole, scale, method, seed)
    chosen = method or _simplest(losses)
    x, y, queries = whole
    calibration = fit(
        x.tolist(), (y > 0).tolist(), method=chosen, scale=scale, fitted_on=backend.name
    )
    names = " + ".join(each.name for each in data)
    after = ScoredPairs(held_out[chosen], y, queries)
    return CalibrationReport(
        calibration,
        backend.label,
        depth,
        _count(queries),
        {
            "none": _mean_loss(_read_as(x, scale), y),
            **{n: float(c.mean()) for n, c in losses.items()},
        },
        untried,
        _measured(names, ScoredPairs(_read_as(x, scale), y, queries), seed),
        _measured(names, after, seed),
        tuple(
            _tested(each.name, part, calibration, scale, seed)
            for each, part in zip(others, scored[len(data) :], strict=True)
        ),
        tuple(
            chain(
                (of_precision(after, value, seed) for value in precision),
                (of_recall(after, value, seed) for value in recall),
            )
        ),
        tuple(f"{each.name}: {note}" for each in (*data, *others) for note in each.warnings),
    )


def _scored(
    backend: Backend,
    data: Dataset,
    depth: int,
    folder: Path | None,
    on_query: Callable[[], object],
) -> _Candidates:
    """Return score, relevance and number of the query of each candidate."""
    import numpy as np  # noqa: PLC0415  # heavy

    scored = score_candidates(backend, data, [depth], folder=folder, on_query=on_query)
    rows = [
        (score, float(data.qrels[query].get(document, 0) > 0), number)
        for number, (query, each) in enumerate(scored.items())
        for score, document in zip(each.down_to(depth), data.candidates[query], strict=False)
    ]
    x, y, queries = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return x, y, queries.astype(int)


def _joined(parts: Sequence[_Candidates]) -> _Candidates:
    import numpy as np  # noqa: PLC0415  # heavy

    before, shifted = 0, []
    for _, _, queries in parts:
        shifted.append(queries + before)
        before += _count(queries)
    return (
        np.concatenate([x for x, _, _ in parts]),
        np.concatenate([y for _, y, _ in parts]),
        np.concatenate(shifted),
    )


def _count(queries: Indexes) -> int:
    return int(queries.max()) + 1 if len(queries) else 0


def _check_enough(whole: _Candidates, data: Sequence[Dataset]) -> None:
    import numpy as np  # noqa: PLC0415  # heavy

    _, y, queries = whole
    count, relevant = len(np.unique(queries)), int(y.sum())
    least = _LEAST_OF_EACH
    if count < _LEAST_QUERIES or min(relevant, len(y) - relevant) < least:
        raise DataError(
            f"{', '.join(each.name for each in data)}: {count:,} queries with {relevant:,} "
            f"relevant candidates and {len(y) - relevant:,} others are too few to calibrate on; it "
            f"needs {_LEAST_QUERIES} queries, and {least} candidates of each kind. Relevant "
            "documents count only if the first stage found them: a deeper one (--depth) finds more"
        )


def _held_out(
    whole: _Candidates, scale: Scale, method: Method | None, seed: int
) -> tuple[dict[Method, Array], dict[Method, Array], dict[str, str]]:
    """Return each method's losses per query, its probabilities, and why others were not tried."""
    import numpy as np  # noqa: PLC0415  # heavy

    x, y, queries = whole
    count = _count(queries)
    folds = np.random.default_rng(seed).permutation(count)[queries.astype(int)] % _FOLDS
    losses: dict[Method, Array] = {}
    held_out: dict[Method, Array] = {}
    untried: dict[str, str] = {}
    for name in get_args(Method) if method is None else (method,):
        p = np.empty_like(x)
        try:
            for fold in range(_FOLDS):
                inside, outside = folds != fold, folds == fold
                curve = fit(x[inside].tolist(), (y[inside] > 0).tolist(), method=name, scale=scale)
                p[outside] = curve.probabilities_of(x[outside].tolist())
        except (ConfigError, DataError) as error:
            if method is not None:
                raise
            untried[name] = str(error)
            continue
        held_out[name] = p
        sums = np.bincount(queries, log_loss(p, y), minlength=count)
        losses[name] = sums[np.unique(queries)] * (len(np.unique(queries)) / len(x))
    if not held_out:
        raise DataError("; ".join(untried.values()))
    return losses, held_out, untried


def _simplest(losses: Mapping[Method, Array]) -> Method:
    """Return the simplest method whose loss is within one standard error of the lowest."""
    best = min(losses, key=lambda name: float(losses[name].mean()))
    for name in losses:
        excess = losses[name] - losses[best]
        if excess.mean() <= excess.std() / math.sqrt(len(excess)):
            return name
    return best


def _read_as(x: Array, scale: Scale) -> Array:
    """Return scores as probabilities: logits by the sigmoid, others cut to 0 to 1."""
    import numpy as np  # noqa: PLC0415  # heavy

    if scale == "logit":
        return np.array(
            Calibration(method="temperature", scale=scale, temperature=1.0).probabilities_of(x)
        )
    return np.clip(x, 0.0, 1.0)


def _mean_loss(p: Array, y: Array) -> float:
    return float(log_loss(p, y).mean())


def _measured(sets: str, pairs: ScoredPairs, seed: int) -> Measured:
    return Measured(
        sets,
        len(pairs.p),
        int(pairs.y.sum()),
        calibration_error(pairs, seed=seed),
        _mean_loss(pairs.p, pairs.y),
        tuple(bins_of(pairs)),
    )


def _tested(
    name: str,
    part: _Candidates,
    calibration: Calibration,
    scale: Scale,
    seed: int,
) -> tuple[Measured, Measured]:
    import numpy as np  # noqa: PLC0415  # heavy

    x, y, queries = part
    if not len(x):
        raise DataError(f"{name}: no query has candidates")
    after = np.array(calibration.probabilities_of(x.tolist()))
    return (
        _measured(name, ScoredPairs(_read_as(x, scale), y, queries), seed),
        _measured(name, ScoredPairs(after, y, queries), seed),
    )
