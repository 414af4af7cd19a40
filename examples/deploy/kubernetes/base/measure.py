"""Measure a rerank server on a labelled set: MRR@10, latency, and whether it keeps its promises.

    python measure.py infinity+http://rerank labelled.jsonl --push http://pushgateway:9091

A line of the set: `{"query": …, "documents": […], "relevant": [index, …]}`. Prints one JSON object,
and pushes it for Prometheus if asked to. Exit code 1 says that the server broke a promise or fell
below `--least-mrr`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

from rerank_plugins import Backend, RerankError, load_backend, rank


class PromiseBrokenError(Exception):
    """The server answers, but not as it should."""


def check_promises(backend: Backend) -> None:
    """Ask what every rerank server must get right, whatever its model.

    Raises:
        PromiseBrokenError: it did not.
    """
    query, documents = (
        "what is a panda?",
        ["A bear of China.", "A city.", "", "大熊猫", "A\nfish 🐟"],
    )
    first = backend.score(query, documents)
    if not all(math.isfinite(score) for score in first):
        raise PromiseBrokenError("a score is not finite")
    if not _close(first, backend.score(query, documents)):
        raise PromiseBrokenError("the same request got other scores")
    if not _close(first[::-1], backend.score(query, documents[::-1])):
        raise PromiseBrokenError("a score depends on the order of the documents")
    if not _close(first[:1] * 3, backend.score(query, documents[:1] * 3)):
        raise PromiseBrokenError("equal documents got different scores")


def _close(one: list[float], other: list[float]) -> bool:
    return all(
        math.isclose(a, b, rel_tol=0.01, abs_tol=0.002) for a, b in zip(one, other, strict=True)
    )


def measure(backend: Backend, labelled: Path) -> dict[str, float]:
    """Return MRR@10 over the queries of a file, and the 95th percentile of their times."""
    reciprocal, seconds = [], []
    for line in labelled.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        began = time.perf_counter()
        scores = backend.score(case["query"], case["documents"])
        seconds.append(time.perf_counter() - began)
        places = [
            place
            for place, item in enumerate(rank(scores, top_n=10), start=1)
            if item.index in case["relevant"]
        ]
        reciprocal.append(1 / places[0] if places else 0.0)
    seconds.sort()
    return {
        "queries": len(reciprocal),
        "mrr_at_10": sum(reciprocal) / len(reciprocal),
        "p95_seconds": seconds[math.ceil(0.95 * len(seconds)) - 1],
    }


def push(gateway: str, name: str, figures: dict[str, float]) -> None:
    """Tell a Pushgateway what was measured, and when; a set replaces its own figures only."""
    from prometheus_client import CollectorRegistry, Gauge, pushadd_to_gateway  # noqa: PLC0415

    registry = CollectorRegistry()
    mrr = Gauge("rerank_canary_mrr_at_10", "MRR@10 of a labelled set.", registry=registry)
    mrr.set(figures["mrr_at_10"])
    at = "rerank_canary_last_success_timestamp_seconds"
    Gauge(at, "When it was measured.", registry=registry).set_to_current_time()
    grouping = {"set": name}
    pushadd_to_gateway(gateway, job="rerank-canary", grouping_key=grouping, registry=registry)


def main(arguments: list[str] | None = None) -> int:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", help="KIND+http://HOST?api_key_env=NAME")
    parser.add_argument("labelled", type=Path)
    parser.add_argument("--push", metavar="URL", help="of a Prometheus Pushgateway")
    parser.add_argument("--least-mrr", type=float, default=0.0)
    given = parser.parse_args(arguments)
    with load_backend(given.server) as backend:
        try:
            check_promises(backend)
            figures = measure(backend, given.labelled)
        except (PromiseBrokenError, RerankError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    if given.push is not None:
        push(given.push, given.labelled.stem, figures)
    print(json.dumps(figures))
    return 0 if figures["mrr_at_10"] >= given.least_mrr else 1


if __name__ == "__main__":
    sys.exit(main())
