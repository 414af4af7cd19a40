"""Find the fastest settings of a local model on this machine that keep its scores."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import truediv
from typing import TypeAlias
from urllib.parse import quote, urlencode

from rerank_plugins._internal.cpu import usable_cpus
from rerank_plugins._internal.rank_statistics import kendall_tau
from rerank_plugins.backend import Backend
from rerank_plugins.bench.speed import compare_speed
from rerank_plugins.bench.workload import Shape, Workload
from rerank_plugins.errors import BackendError, ConfigError, MissingDependencyError, RerankError
from rerank_plugins.spec import load_backend

__all__ = ["SAME", "Trial", "Tuning", "tune"]

SAME = 1e-3
"""Logits that differ by less count as the same; float32 rounding stays far below."""

_GAIN = 1.03
"""A smaller speedup than this is taken for noise."""
_CHECKED = 2
"""Queries whose scores are compared with the reference."""
_CHECKED_DOCUMENTS = 20
"""The largest number of documents per checked query."""
_FLOAT32: Sequence[Mapping[str, object]] = (
    {"engine": "onnx", "dtype": "float32"},
    {"engine": "torch", "dtype": "float32", "attention": "packed"},
    {"engine": "torch", "dtype": "float32", "attention": "padded"},
)
_COARSE_CPU: Sequence[Mapping[str, object]] = (
    {"engine": "onnx", "dtype": "int8"},
    {"engine": "torch", "dtype": "bfloat16"},
)
_COARSE_GPU: Sequence[Mapping[str, object]] = (
    {"engine": "torch", "dtype": "tf32"},
    {"engine": "torch", "dtype": "float16"},
    {"engine": "torch", "dtype": "bfloat16"},
)
_REFERENCES: Sequence[Mapping[str, object]] = (
    {"engine": "torch", "dtype": "float32", "attention": "padded"},
    {"engine": "onnx", "dtype": "float32"},
)
_SUBJECT = ("kind", "model")
_TUNED = ("engine", "dtype", "attention", "threads", "batch_tokens")
_BATCH_TOKENS = (2_048, 8_192, 32_768)


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting, its speed, and how its scores compare with the reference."""

    options: Mapping[str, object]
    """The options of the `local` backend, with the model."""
    ratio: float = 0.0
    """Speed relative to the original settings, at the median call; 0 if it failed."""
    seconds: float = 0.0
    """The median call, in seconds."""
    tau: float | None = None
    """Kendall's τ-b to the reference scores, averaged over the checked queries."""
    difference: float = math.inf
    """The largest difference between a logit and the reference's."""
    error: str = ""
    """Why this setting can't run here; empty if it can."""

    @property
    def exact(self) -> bool:
        """Whether the scores equal those of float32, up to rounding."""
        return self.difference < SAME

    @property
    def spec(self) -> str:
        """The setting as a spec string."""
        options = {key: value for key, value in self.options.items() if key not in _SUBJECT}
        model = quote(str(self.options["model"]), safe="/:.@\\~ ")
        return f"local:{model}" + (f"?{urlencode(options)}" if options else "")

    @property
    def toml(self) -> str:
        """The setting as the table of a configuration file."""
        lines = (f"{key} = {_literal(value)}" for key, value in self.options.items())
        return "\n".join(("[backend]", *lines)) + "\n"


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are TOML's, too


@dataclass(frozen=True, slots=True)
class Tuning:
    """All settings tried for a model, in order; the first one is the original."""

    trials: tuple[Trial, ...]
    best: Trial
    """The fastest setting with exact scores, or with any scores if those are allowed."""
    reference: str
    """The spec that gave the reference scores."""
    untried: int
    """How many settings there was no time for."""


class _Search:
    """The trials so far; the fastest stays loaded."""

    def __init__(
        self, options: Mapping[str, object], workload: Workload, shape: Shape, calls: int
    ) -> None:
        self._workload, self._shape, self._calls = workload, shape, calls
        self._checks = workload.requests(Shape(_CHECKED, min(shape.documents, _CHECKED_DOCUMENTS)))
        self._exact, self.reference = self._reference_scores(options)
        with ExitStack() as opened:
            self._leader = opened.enter_context(_loaded(options))
            self.facts = self._leader.describe()
            self.best = self._trial(
                options, self._leader, self._times(leader=self._leader)["leader"]
            )
            self._opened = opened.pop_all()
        self.trials = [self.best]

    def close(self) -> None:
        self._opened.close()

    def attempt(self, options: Mapping[str, object], *, coarse: bool) -> None:
        """Time a setting beside the fastest so far; keep it loaded if it is faster."""
        with ExitStack() as opened:
            try:
                challenger = opened.enter_context(_loaded(options))
                walls = self._times(leader=self._leader, challenger=challenger)
                speedups = map(truediv, walls["leader"], walls["challenger"])
                ratio = self.best.ratio * statistics.median(speedups)
                trial = self._trial(options, challenger, walls["challenger"], ratio)
            except (ConfigError, MissingDependencyError, BackendError) as error:
                self.trials.append(Trial(options, error=str(error)))
                return
            self.trials.append(trial)
            usable = coarse or trial.exact
            # If the original setting is not exact itself, any exact one replaces it.
            best_is_inexact = not (coarse or self.best.exact)
            if usable and (best_is_inexact or trial.ratio > _GAIN * self.best.ratio):
                self._opened.close()
                self.best, self._leader, self._opened = trial, challenger, opened.pop_all()

    def _times(self, **backends: Backend) -> dict[str, tuple[float, ...]]:
        speeds = compare_speed(backends, self._shape, self._workload, calls=self._calls, warm_up=1)
        return {name: speed.seconds for name, speed in speeds.items()}

    def _trial(
        self,
        options: Mapping[str, object],
        backend: Backend,
        wall: Sequence[float],
        ratio: float = 1.0,
    ) -> Trial:
        scores = backend.score_many(self._checks)
        queries = list(zip(scores, self._exact, strict=True))
        taus = [tau for ours, exact in queries if (tau := kendall_tau(ours, exact)) is not None]
        difference = max(
            abs(a - b) for ours, exact in queries for a, b in zip(ours, exact, strict=True)
        )
        tau = statistics.mean(taus) if taus else None
        return Trial(options, ratio, statistics.median(wall), tau, difference)

    def _reference_scores(
        self, options: Mapping[str, object]
    ) -> tuple[Sequence[Sequence[float]], str]:
        """Score with plain float32: torch with padded batches, or onnx where torch is missing."""
        kept = {key: value for key, value in options.items() if key not in _TUNED}
        failure: RerankError | None = None
        for plain in _REFERENCES:
            exact = Trial({**kept, **plain})
            try:
                with _loaded(exact.options) as backend:
                    return backend.score_many(self._checks), exact.spec
            except (ConfigError, MissingDependencyError) as error:
                failure = failure or error
        raise ConfigError(f"no engine here gives exact scores of this model: {failure}")


_Stage: TypeAlias = Callable[[Mapping[str, object], Mapping[str, object]], list[dict[str, object]]]
"""From the fastest settings so far and the model's description to the settings to try next."""


def _loaded(options: Mapping[str, object]) -> Backend:
    return load_backend({**options, "scale": "logit"})


def _engines(
    original: Mapping[str, object],
    facts: Mapping[str, object],
    *,
    coarse: bool,
) -> list[dict[str, object]]:
    """Return the engines, dtypes and attentions that the original setting leaves open."""
    on_gpu = not str(facts.get("device", "cpu")).startswith("cpu")
    variants = [*_FLOAT32]
    if coarse:
        variants += _COARSE_GPU if on_gpu else _COARSE_CPU
    return [
        {**original, **variant}
        for variant in variants
        if all(original.get(key, value) == value for key, value in variant.items())
        and any(facts.get(key, value) != value for key, value in variant.items())
        and not (on_gpu and variant["engine"] == "onnx")
    ]


def _threads(best: Mapping[str, object], facts: Mapping[str, object]) -> list[dict[str, object]]:
    """Return other thread counts, unless one is set or a GPU does the work."""
    if "threads" in best or not str(facts.get("device", "cpu")).startswith("cpu"):
        return []
    cores = usable_cpus()
    counts = {max(1, cores // 4), max(1, cores // 2), cores}
    return [{**best, "threads": count} for count in sorted(counts, reverse=True)]


def _batches(best: Mapping[str, object], facts: Mapping[str, object]) -> list[dict[str, object]]:
    """Return other batch sizes for torch; the onnx engine runs pair by pair."""
    engine = best.get("engine", facts.get("engine"))
    if "batch_tokens" in best or engine != "torch":
        return []
    return [{**best, "batch_tokens": size} for size in _BATCH_TOKENS]


def _local_options(backend: Backend) -> dict[str, object]:
    """Return the options of the one local model in a chain, but for its scale."""
    local = [leaf for leaf in backend.walk() if leaf.kind == "local"]
    if not local:
        raise ConfigError(
            f"only local models have engines to choose from, not {backend.label!r}; write: "
            "local:MODEL"
        )
    if len(local) > 1:
        labels = ", ".join(leaf.label for leaf in local)
        raise ConfigError(f"the spec names several local models ({labels}); tune one of them")
    return {name: value for name, value in local[0].to_spec().items() if name != "scale"}


def tune(
    spec: str | Mapping[str, object],
    workload: Workload,
    *,
    shape: Shape = Shape(1, 20),  # noqa: B008  # frozen
    seconds: float = 120.0,
    calls: int = 3,
    allow_inexact: bool = False,
    on_trial: Callable[[int, int], object] = lambda _done, _total: None,
) -> Tuning:
    """Try the engines, dtypes, batches and thread counts of a local model on this machine.

    Options that the spec sets are not changed. Each setting is timed in turns with the fastest
    one so far, on new texts, and its scores are compared with plain float32. The engine is chosen
    first, then its threads, then its batches: trying all combinations would take hours.

    Args:
        spec: a spec that names one `local:` model; wrappers and servers beside it are ignored.
        workload: the source of the texts.
        shape: queries and documents per call.
        seconds: no trial starts that would probably end later; the original setting is always
            measured.
        calls: measured calls per setting.
        allow_inexact: also try int8 and half precision, whose scores differ, and let them win.
        on_trial: called with the number of trials done and known so far, to show progress.

    Raises:
        ConfigError: the spec is wrong, names no local model or several, or no engine gives exact
            scores.
        MissingDependencyError: the engine is not installed.
        BackendError: the model fails with its original setting.
    """
    began = time.monotonic()
    options = _local_options(load_backend(spec))
    coarse = allow_inexact or "dtype" in options
    search = _Search(options, workload, shape, calls)
    longest = (time.monotonic() - began) / 2  # of the reference and the original setting
    untried = 0
    try:
        stages: Sequence[_Stage] = (partial(_engines, coarse=coarse), _threads, _batches)
        for stage in stages:
            settings = stage(search.best.options, search.facts)
            for number, options in enumerate(settings):
                on_trial(len(search.trials), len(search.trials) + len(settings) - number)
                start = time.monotonic()
                if start - began + longest > seconds:
                    untried += len(settings) - number
                    break
                search.attempt(options, coarse=coarse)
                longest = max(longest, time.monotonic() - start)
    finally:
        search.close()
    return Tuning(tuple(search.trials), search.best, search.reference, untried)
