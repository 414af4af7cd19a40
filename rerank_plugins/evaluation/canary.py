"""Monitor a backend's quality with a few judged queries, as Prometheus metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_plugins._internal.optional import require
from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError
from rerank_plugins.evaluation.datasets.dataset import Dataset
from rerank_plugins.evaluation.evaluate import sweep
from rerank_plugins.evaluation.metrics import measure
from rerank_plugins.evaluation.results import Latency
from rerank_plugins.evaluation.scoring import reranked, score_candidates

__all__ = ["CANARY_METRICS", "Canary", "CanaryRun", "baseline_of", "check"]

CANARY_METRICS = ("MRR@10", "nDCG@10")
"""The metrics that a canary measures."""

_JOB = "rerank-canary"
_GAUGES = {
    "rerank_canary_mrr_at_10": "Mean reciprocal rank in the first ten, after reranking.",
    "rerank_canary_ndcg_at_10": "Normalised discounted cumulative gain in the first ten.",
    "rerank_canary_first_stage_mrr_at_10": "The MRR@10 of the order before reranking.",
    "rerank_canary_queries": "Judged queries of the set.",
    "rerank_canary_duration_seconds": "How long the last successful run took.",
    "rerank_canary_regression": "1 if the last successful run was below the limit.",
    "rerank_canary_last_success_timestamp_seconds": "When the last successful run ended.",
    "rerank_canary_last_run_timestamp_seconds": "When the last run ended, successful or not.",
    "rerank_canary_failures": "Runs in which the backend failed.",
}


@dataclass(frozen=True, slots=True)
class CanaryRun:
    """The result of one run."""

    figures: dict[str, float]
    """Metric → mean over the queries, after reranking."""
    before: dict[str, float]
    """Metric → mean over the queries, for the first stage's order."""
    queries: int
    seconds: float
    """Wall time of the whole run."""
    p95_seconds: float | None
    """Seconds within which 95 % of the queries are reranked; None if no query has candidates."""


def check(backend: Backend, dataset: Dataset, *, depth: int = 100) -> CanaryRun:
    """Rerank every query of a dataset, and measure the result.

    Raises:
        ConfigError: `depth` is not an integer of at least 1.
        BackendError: the backend failed.
    """
    depths = sweep(depth, ())
    start = time.monotonic()
    before = measure(dataset.qrels, dataset.candidates, CANARY_METRICS)
    scored = score_candidates(backend, dataset, depths)
    after = measure(dataset.qrels, reranked(dataset, scored, depth), CANARY_METRICS)
    speed = Latency.of([query.timing for query in scored.values() if query.timing is not None])
    return CanaryRun(
        _means(after),
        _means(before),
        queries=len(dataset.queries),
        seconds=time.monotonic() - start,
        p95_seconds=None if speed is None else speed.percentile(95),
    )


def _means(values: dict[str, dict[str, float]]) -> dict[str, float]:
    return {name: sum(per.values()) / len(per) for name, per in values.items()}


def baseline_of(path: Path, metric: str, *, label: str | None = None) -> float:
    """Return a metric's mean from a `results.json` that an evaluation wrote.

    Args:
        path: the file.
        metric: the metric.
        label: the backend; may be None if there is only one.

    Raises:
        ConfigError: the file can't be read, or does not hold the metric.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        _, *systems = document["systems"]
        means = {each["label"]: each["figures"][metric]["mean"] for each in systems}
    except OSError as exc:
        raise ConfigError(f"can't read {str(path)!r}: {exc.strerror or exc}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{str(path)!r} holds no {metric} of an evaluation ({exc!r})") from exc
    if label is None and len(means) == 1:
        return float(next(iter(means.values())))
    if label not in means:
        raise ConfigError(
            f"{str(path)!r} holds no backend {label!r}; valid: {', '.join(map(repr, means))}"
        )
    return float(means[label])


class Canary:
    """Publishes a dataset's metrics; counters continue across runs and restarts.

    Args:
        name: the value of the label `set`.
        textfile: a file for node-exporter's textfile collector, replaced atomically; counters
            continue from its values for this set.
        gateway: the URL of a Pushgateway; metrics are added to its group
            `job="rerank-canary"` of this set. Without a text file, counters start at 0 in each
            process.

    Raises:
        MissingDependencyError: `textfile` or `gateway` is set, and the extra `prometheus` is
            missing.
    """

    def __init__(
        self, name: str, *, textfile: Path | None = None, gateway: str | None = None
    ) -> None:
        if textfile is not None or gateway is not None:
            self._prometheus = require("prometheus_client", extra="prometheus")
        self._name = name
        self._textfile = textfile
        self._gateway = gateway
        self._values: dict[str, float] = {"rerank_canary_failures": 0.0}
        self._values.update(self._saved_values())

    def succeeded(self, run: CanaryRun, *, regression: bool) -> None:
        """Publish the result of a run.

        Raises:
            OSError: the file can't be written, or the gateway can't be reached.
        """
        now = time.time()
        self._values |= {
            "rerank_canary_mrr_at_10": run.figures["MRR@10"],
            "rerank_canary_ndcg_at_10": run.figures["nDCG@10"],
            "rerank_canary_first_stage_mrr_at_10": run.before["MRR@10"],
            "rerank_canary_queries": run.queries,
            "rerank_canary_duration_seconds": run.seconds,
            "rerank_canary_regression": float(regression),
            "rerank_canary_last_success_timestamp_seconds": now,
            "rerank_canary_last_run_timestamp_seconds": now,
        }
        self._publish()

    def failed(self) -> None:
        """Publish that the backend failed; the metrics of the last success remain.

        Raises:
            OSError: the file can't be written, or the gateway can't be reached.
        """
        self._values["rerank_canary_failures"] += 1
        self._values["rerank_canary_last_run_timestamp_seconds"] = time.time()
        self._publish()

    def _saved_values(self) -> Iterator[tuple[str, float]]:
        """Yield the values that an earlier process left in the file."""
        if self._textfile is None or not self._textfile.exists():
            return
        parser = require("prometheus_client.parser", extra="prometheus")
        try:
            families = list(
                parser.text_string_to_metric_families(self._textfile.read_text(encoding="utf-8"))
            )
        except (OSError, ValueError):
            return  # the next run replaces the file
        for family in families:
            for sample in family.samples:
                name = sample.name.removesuffix("_total")
                if name in _GAUGES and sample.labels.get("set") == self._name:
                    yield name, sample.value

    def _publish(self) -> None:
        if self._textfile is not None:
            self._textfile.parent.mkdir(parents=True, exist_ok=True)
            self._prometheus.write_to_textfile(str(self._textfile), self._registry())
        if self._gateway is not None:
            # Add, since a put would remove the metrics that a failed run does not have.
            self._prometheus.pushadd_to_gateway(
                self._gateway, job=_JOB, registry=self._registry(), grouping_key={"set": self._name}
            )

    def _registry(self) -> Any:
        registry = self._prometheus.CollectorRegistry()
        for name, help_text in _GAUGES.items():
            if name not in self._values:
                continue
            kind = self._prometheus.Counter if name.endswith("failures") else self._prometheus.Gauge
            metric = kind(name, help_text, ["set"], registry=registry).labels(self._name)
            if name.endswith("failures"):
                metric.inc(self._values[name])
            else:
                metric.set(self._values[name])
        return registry
