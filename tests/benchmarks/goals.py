"""The project's goals for speed on a CPU, and the figures measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from tests.benchmarks.contenders import CONTENDERS, REFERENCE

__all__ = ["goals", "ratio"]

_FLOAT, _INT8 = "rerank-plugins, onnx", "rerank-plugins, onnx int8"
_MODEL = "minilm"


def ratio(measured: Mapping[str, Any], clock: str, name: str) -> float:
    """Return the median speedup over the reference, in wall or processor time.

    Calls are compared one by one, because all contenders get the same texts in each call.
    """
    pairs = zip(measured[clock][REFERENCE], measured[clock][name], strict=True)
    return statistics.median(reference / own for reference, own in pairs)


def goals(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return goal, figure and verdict for each goal that the results cover."""
    stages = {name: result["found"] for name, result in results.items()}
    return [*_goals(stages), *_client_goals(stages)]


def _goals(stages: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    speed = stages.get(f"speed-{_MODEL}")
    if speed:
        again = stages.get(f"speed-{_MODEL}-100", {"rounds": []})
        rounds = _longest(*speed["rounds"], *again["rounds"])
        for name, least in ((_FLOAT, 3), (_INT8, 6)):
            ratios = {
                f"{r['mix']} {r['shape']}".replace("x", "×"): ratio(r, "wall", name) for r in rounds
            }
            engine = name.partition(", ")[2]
            goal = f"{engine}: {least} × as fast as sentence-transformers, 1×20 and 1×100"
            figures = ", ".join(f"{value:.1f} {title}" for title, value in ratios.items())
            yield goal, figures, _verdict(min(ratios.values()) >= least)
        for own, exact, others in ((_FLOAT, True, "in float32"), (_INT8, False, "of any kind")):
            lead, name = min(
                (min(ratio(r, "wall", own) / ratio(r, "wall", name) for r in speed["rounds"]), name)
                for name in speed["memory"]
                if not CONTENDERS[name].ours and (CONTENDERS[name].exact or not exact)
            )
            goal = f"{own.partition(', ')[2]}: ahead of every peer {others}"
            yield goal, f"{lead:.2f} × as fast as the closest, {name}", _verdict(lead > 1)
        for name in (_FLOAT, _INT8):
            peak = speed["memory"][name]["peak"]
            goal = f"{name.partition(', ')[2]}: at most 200 MB in memory, MiniLM"
            yield goal, f"{peak * 2**20 / 1e6:.0f} MB at its peak", _verdict(peak * 2**20 <= 200e6)
    if "agreement" in stages:
        row = stages["agreement"]["rows"][_INT8]
        yield "onnx int8: Kendall τ of 0.98", f"{row['tau']:.4f}", _verdict(row["tau"] >= 0.98)
        row = stages["agreement"]["rows"][_FLOAT]
        difference = row["probability_difference"]
        yield "onnx: scores within 1e-5", f"{difference:.1e}", _verdict(difference <= 1e-5)
    if "start" in stages:
        for name in (_FLOAT, _INT8):
            seconds = statistics.median(stages["start"]["wall"][name])
            goal = f"{name.partition(', ')[2]}: cold process to first score in 1 s"
            yield goal, f"{seconds:.2f} s", _verdict(seconds < 1)
    if "import" in stages:
        took = stages["import"]["import_ms"]
        yield "`import rerank_plugins` in 100 ms", f"{took:.0f} ms", _verdict(took < 100)
    for name, row in stages.items():
        if name.startswith("flatness-"):
            grown = row["mib_per_10k_pairs"]
            goal = f"{name.removeprefix('flatness-')}: memory flat over {row['pairs']:,} pairs"
            yield goal, f"{grown:+.2f} MiB per 10,000", _verdict(abs(grown) < 0.5)


def _client_goals(stages: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    if "http" in stages:
        times = stages["http"]["rerank-plugins"]["wall_ms"] / stages["http"]["httpx"]["wall_ms"]
        yield (
            "client: at most 1.15 × the time of a bare POST of 20 documents",
            f"{times:.2f} ×",
            _verdict(times <= 1.15),
        )
    if "load" in stages:
        times = stages["load"]["rerank-plugins"]["p99_ms"] / stages["load"]["httpx"]["p99_ms"]
        goal = f"client: p99 of {stages['load']['callers']:,} callers no worse than a bare client's"
        yield goal, f"{times:.2f} ×", _verdict(times <= 1)
    if "cache" in stages:
        micros = 1000 * stages["cache"]["ms"]["memory"] / stages["cache"]["pairs"]
        yield "cache in memory: at most 50 µs per pair", f"{micros:.1f} µs", _verdict(micros <= 50)
        if (commands := stages["cache"].get("redis_commands_per_call")) is not None:
            yield (
                "cache in Redis: one round trip per call",
                f"{commands:g}",
                _verdict(commands <= 1),
            )


def _longest(*rounds: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Among rounds with equal requests, return those with the most calls."""
    longest: dict[tuple[str, str], Mapping[str, Any]] = {}
    for measured in sorted(rounds, key=lambda r: len(r["wall"][REFERENCE])):
        longest[measured["mix"], measured["shape"]] = measured
    return list(longest.values())


def _verdict(met: bool) -> str:  # noqa: FBT001 - it says which
    return "met" if met else "missed"
