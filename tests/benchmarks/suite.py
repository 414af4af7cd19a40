"""The command line: which stages run, at what size, and where the results go."""
# ruff: noqa: T201 - a script talks to its terminal

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rerank_plugins.bench.workload import Shape
from tests.benchmarks.agreement import measure_agreement
from tests.benchmarks.contenders import FEW, REFERENCE
from tests.benchmarks.flatness import measure_flatness
from tests.benchmarks.footprint import measure_footprint
from tests.benchmarks.load import measure_load
from tests.benchmarks.machine import describe_machine, measure_peak
from tests.benchmarks.operators import measure_operators
from tests.benchmarks.overhead import measure_cache, measure_http
from tests.benchmarks.page import fill
from tests.benchmarks.speed import Group, Round, measure_speed
from tests.benchmarks.start import measure_first_score, measure_import

__all__ = ["main"]

_FLAT = ("rerank-plugins, onnx", "rerank-plugins, torch packed")
_ONE, _HUNDRED, _BULK = Shape(1, 20), Shape(1, 100), Shape(64, 50)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    groups: tuple[Group, ...]
    model: str
    """For the stages that take one model."""
    footprints: tuple[str, ...]
    """The models whose processes' memory is measured."""
    queries: int
    starts: int
    imports: int
    calls: int
    """Of the HTTP client and the cache."""
    callers: int
    """Who ask the HTTP client at the same time."""
    flat_pairs: int
    peak_seconds: float


_FULL = Size(
    groups=(
        Group(
            "minilm",
            "minilm",
            (
                Round("natural", _ONE, calls=5),
                Round("skewed", _ONE, calls=5),
                Round("natural", _HUNDRED, calls=1, warm_up=0),
                Round("skewed", _HUNDRED, calls=1, warm_up=0),
            ),
        ),
        Group(
            "minilm-100",
            "minilm",
            (
                Round("natural", _HUNDRED, calls=5),
                Round("skewed", _HUNDRED, calls=5),
            ),
            contenders=FEW,
        ),
        Group(
            "minilm-bulk",
            "minilm",
            (
                Round("natural", _BULK, calls=1, warm_up=0),
                Round("skewed", _BULK, calls=1, warm_up=0),
            ),
            contenders=(REFERENCE, "rerank-plugins, onnx", "rerank-plugins, onnx int8"),
        ),
        Group(
            "bge-base",
            "bge-base",
            (
                Round("natural", _ONE, calls=2),
                Round("skewed", _ONE, calls=2),
                Round("natural", _HUNDRED, calls=1, warm_up=0),
                Round("skewed", _HUNDRED, calls=1, warm_up=0),
            ),
            contenders=FEW,
        ),
        Group(
            "bge-large", "bge-large", (Round("natural", _ONE, calls=2, warm_up=0),), contenders=FEW
        ),
    ),
    model="minilm",
    footprints=("minilm", "bge-base"),
    queries=60,
    starts=3,
    imports=15,
    calls=400,
    callers=1000,
    flat_pairs=100_000,
    peak_seconds=1.5,
)
_QUICK = Size(
    groups=(
        Group(
            "minilm",
            "minilm",
            (Round("natural", _ONE, calls=3), Round("skewed", _ONE, calls=3)),
        ),
    ),
    model="minilm",
    footprints=("minilm",),
    queries=12,
    starts=2,
    imports=5,
    calls=100,
    callers=300,
    flat_pairs=5_000,
    peak_seconds=0.3,
)
_TINY = Size(
    groups=(Group("tiny", "tiny", (Round("natural", Shape(1, 3), calls=1),), contenders=FEW),),
    model="tiny",
    footprints=("tiny",),
    queries=2,
    starts=1,
    imports=1,
    calls=2,
    callers=5,
    flat_pairs=500,
    peak_seconds=0.01,
)
_SIZES = {"full": _FULL, "quick": _QUICK, "tiny": _TINY}


def main(arguments: list[str] | None = None) -> int:
    """Run the stages in order; the results are written after each."""
    chosen = _parse(arguments)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    models = chosen.models or Path(tempfile.gettempdir()) / "rerank-plugins-benchmarks"
    models.mkdir(parents=True, exist_ok=True)
    results = json.loads(chosen.out.read_text("utf-8")) if chosen.out.exists() else {}
    with (models / "workers.log").open("a", encoding="utf-8") as log:
        stages = _stages(_SIZES[chosen.size], models, chosen.peers, log)
        if unknown := set(chosen.stages or ()) - set(stages):
            raise SystemExit(f"no such stage: {', '.join(unknown)}; valid: {', '.join(stages)}")
        for name in chosen.stages or stages:
            began = time.monotonic()
            print(f"=== {name}", flush=True)
            results[name] = {"measured": describe_machine(), "found": stages[name]()}
            results = {key: results[key] for key in (*stages, *results) if key in results}
            chosen.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
            print(f"=== {name}: {time.monotonic() - began:.0f} s", flush=True)
    print(fill(chosen.page, results))
    return 0


def _stages(
    size: Size, models: Path, peers: Path | None, log: IO[str]
) -> Mapping[str, Callable[[], Any]]:
    def speed(group: Group) -> Callable[[], Any]:
        return lambda: measure_speed(
            group, models, peers, log, lambda text: print(text, flush=True)
        )

    def agreement() -> Any:
        return measure_agreement(size.model, models, peers, log, queries=size.queries, documents=20)

    return {
        "peak": lambda: measure_peak(seconds=size.peak_seconds),
        **{f"speed-{group.name}": speed(group) for group in size.groups},
        "operators": lambda: measure_operators(size.model, models, runs=max(1, size.calls // 10)),
        "agreement": agreement,
        "start": lambda: measure_first_score(size.model, models, peers, log, times=size.starts),
        "footprint": lambda: measure_footprint(
            size.footprints, models, peers, log, queries=max(1, size.queries // 20)
        ),
        "import": lambda: measure_import(times=size.imports),
        "http": lambda: measure_http(calls=size.calls),
        "load": lambda: measure_load(callers=size.callers, calls=3 * size.callers),
        "cache": lambda: measure_cache(calls=size.calls),
        **{
            f"flatness-{name.rpartition(', ')[2].partition(' ')[0]}": (
                lambda name=name: measure_flatness(name, models, log, pairs=size.flat_pairs)
            )
            for name in _FLAT
        },
    }


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/benchmarks/run.py",
        description="Measure our engines beside other rerankers; read ratios.",
    )
    parser.add_argument("--size", choices=_SIZES, default="full", help="tiny only checks the suite")
    parser.add_argument("--quick", action="store_const", dest="size", const="quick")
    parser.add_argument("--stages", nargs="*", metavar="NAME", help="some only; others are kept")
    parser.add_argument("--peers", type=Path, help="environments made by install.py")
    parser.add_argument("--models", type=Path, help="where checkpoints are made and kept")
    parser.add_argument("--out", type=Path, default=Path("results.json"), help="JSON, merged")
    parser.add_argument("--page", type=Path, help="a page whose tables and plots to write anew")
    return parser.parse_args(arguments)
