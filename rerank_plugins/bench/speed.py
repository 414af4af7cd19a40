"""The speed of backends, and how alike they rank, measured side by side in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rerank_plugins._internal.rank_statistics import kendall_tau, percentile
from rerank_plugins.backend import Backend
from rerank_plugins.bench.workload import Shape, Workload
from rerank_plugins.errors import ConfigError
from rerank_plugins.ranking import rank
from rerank_plugins.scores import Scores

__all__ = ["TOP", "WARM_UP", "RankAgreement", "Speed", "compare_speed"]

TOP = 10
"""How many of the best documents `RankAgreement.top` looks at."""

WARM_UP = 2
"""Unmeasured calls per backend, by default."""

_THIS_PROCESS: Mapping[str, Callable[[], float]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RankAgreement:
    """How alike two backends rank the documents of the same requests."""

    tau: float | None
    """The mean of Kendall's τ-b over the requests, -1 to 1; None where it is undefined for all."""
    top: float
    """The mean share of one backend's best ten documents that are among the other's, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Speed:
    """The calls of one backend at one shape."""

    shape: Shape
    seconds: tuple[float, ...]
    """Wall time of each call, in the order of the calls."""
    cpu_seconds: tuple[float, ...]
    """Processor time of each call, summed over the threads of the process."""
    agreement: RankAgreement | None = None
    """With the first backend, perfect for itself; None: not asked for."""

    def percentile(self, percent: float) -> float:
        """Return the wall seconds within which this share of the calls ended (nearest rank)."""
        return percentile(self.seconds, percent)

    @property
    def pairs_per_second(self) -> float:
        """Pairs scored per second of wall time, at the median call."""
        return self.shape.pairs / self.percentile(50)

    @property
    def cpu_per_pair(self) -> float:
        """Processor seconds of this process per pair, at the median call."""
        return percentile(self.cpu_seconds, 50) / self.shape.pairs


def compare_speed(
    backends: Mapping[str, Backend],
    shape: Shape,
    workload: Workload,
    *,
    calls: int = 20,
    warm_up: int = WARM_UP,
    processor_clocks: Mapping[str, Callable[[], float]] = _THIS_PROCESS,
    quality: bool = False,
    on_call: Callable[[], object] = lambda: None,
) -> dict[str, Speed]:
    """Time each backend on the same requests, in turns, so that noise affects all alike.

    Every call has new requests, so that no cache helps, and the order of the backends changes
    every round. Compare the ratios: absolute times depend on the machine and the moment.

    Args:
        backends: the backends to measure, by the name to show.
        shape: queries and documents per call.
        workload: the source of the texts.
        calls: measured calls per backend.
        warm_up: unmeasured calls before them; the first loads the model.
        processor_clocks: name → the processor seconds used so far, for backends that score in
            another process.
        quality: whether to compare the rankings, which takes quadratic time in the documents.
        on_call: called after every call, to show progress.

    Raises:
        ConfigError: there is nothing to measure.
        RerankError: a backend failed.
    """
    if not backends or calls < 1:
        raise ConfigError(f"nothing to measure: {len(backends)} backends, {calls} calls")
    names = list(backends)
    walls: dict[str, list[float]] = {name: [] for name in names}
    processors: dict[str, list[float]] = {name: [] for name in names}
    scores: dict[str, list[Scores]] = {name: [] for name in names}
    for turn in range(warm_up + calls):
        requests = workload.requests(shape)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            clock = processor_clocks.get(name, time.process_time)
            wall, processor, given = _timed(backends[name], requests, clock)
            on_call()
            if turn >= warm_up:
                walls[name].append(wall)
                processors[name].append(processor)
                scores[name] += given if quality else ()
    return {
        name: Speed(
            shape,
            tuple(walls[name]),
            tuple(processors[name]),
            _agreement(scores[names[0]], scores[name]) if quality else None,
        )
        for name in names
    }


def _timed(
    backend: Backend, requests: Sequence[tuple[str, Sequence[str]]], clock: Callable[[], float]
) -> tuple[float, float, list[Scores]]:
    wall, processor = time.perf_counter(), clock()
    scores = backend.score_many(requests)
    return time.perf_counter() - wall, clock() - processor, scores


def _agreement(one: Sequence[Scores], other: Sequence[Scores]) -> RankAgreement:
    pairs = list(zip(one, other, strict=True))
    taus = [tau for tau in (kendall_tau(a, b) for a, b in pairs) if tau is not None]
    shares = [len(_best(a) & _best(b)) / len(_best(a)) for a, b in pairs]
    return RankAgreement(sum(taus) / len(taus) if taus else None, sum(shares) / len(shares))


def _best(scores: Scores) -> set[int]:
    return {item.index for item in rank(scores, top_n=TOP)}
