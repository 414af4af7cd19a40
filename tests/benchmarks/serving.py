"""Measure our server under load and beside others: `python tests/benchmarks/serving.py --help`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])  # the modules are `tests.benchmarks.…`

from rerank_plugins.bench.workload import Shape, Workload
from tests.benchmarks.generator import Load, generate
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.models import MODELS
from tests.benchmarks.page import as_table, fill_marked, in_bold
from tests.benchmarks.plot import bars
from tests.benchmarks.pressure import measure_flood, measure_soak, measure_steady, percentiles
from tests.benchmarks.rivals import RIVALS, started

__all__ = ["main", "measure_throughput", "tables"]

_CLIENTS = (1, 8, 64)
_LEAST = 16
"""How many requests are sent in a turn, however few the clients are."""


def measure_throughput(
    model: Path, servers: Path | None, *, requests: int, rounds: int, clients: Sequence[int]
) -> dict[str, Any]:
    """Send requests to all servers in turns; the order changes, so that noise affects all alike.

    Args:
        model: that all of them serve.
        servers: see `started()`.
        requests: of each client, in each turn.
        rounds: turns of each server.
        clients: how many there are at once.
    """
    workload = Workload()
    measured: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, started(model, Path(folder), servers) as rivals:
        for count in clients:
            for turn in range(-1, rounds):  # the first is not counted
                texts = workload.requests(Shape(100, 20))
                names = sorted(rivals, reverse=bool(turn % 2))
                for name in names:
                    rival = rivals[name]
                    load = Load(
                        url=rival.server.url + rival.path,
                        texts=texts,
                        fields=rival.fields,
                        headers=rival.headers,
                        clients=count,
                        requests=max(_LEAST, requests * count) if turn >= 0 else count,
                    )
                    replies = generate(load)
                    if turn < 0:
                        continue
                    good = [reply for reply in replies if reply.status == 200]
                    row = measured.setdefault(name, {}).setdefault(
                        str(count), {"per_second": [], "ms": [], "errors": 0}
                    )
                    taken = max(r.ended for r in replies) - min(r.sent for r in replies)
                    row["per_second"].append(round(len(good) / taken, 2))
                    row["ms"] += [round(1000 * reply.seconds, 1) for reply in good]
                    row["errors"] += len(replies) - len(good)
    for row in (row for rows in measured.values() for row in rows.values()):
        row["ms"] = percentiles(row["ms"])
    ordered = {name: measured[name] for name in RIVALS if name in measured}
    return {"documents": 20, "rounds": rounds, "servers": ordered}


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Return each section of the page as Markdown, by its name."""
    machine = results["machine"]
    made = {
        "serving-machine": f"{machine['processor']}, {machine['cores']} cores, virtual, with "
        f"{', '.join(machine['flags'])}; {machine['system']}; {machine['date']}; load before: "
        f"{machine['load']:.1f}."
    }
    if "throughput" in results:
        made["serving-throughput"] = _throughput(results["throughput"]["servers"])
    if "steady" in results:
        made["serving-load"] = _load(results["steady"], results["flood"], results.get("soak"))
    return made


def _throughput(servers: Mapping[str, Any]) -> str:
    counts = list(next(iter(servers.values())))
    rows = []
    for name, by_count in servers.items():
        cells = [in_bold(name)]
        for count in counts:
            row = by_count[count]
            errors = f", {row['errors']} errors" if row["errors"] else ""
            cells.append(
                f"{_mean(row):.1f} / {row['ms']['50']:.0f} / {row['ms']['95']:.0f}{errors}"
            )
        rows.append(cells)
    return as_table(("", *map(_heading, counts)), rows)


def _load(
    steady: Mapping[str, Any], flood: Mapping[str, Any], soak: Mapping[str, Any] | None
) -> str:
    added, accepted, refused = steady["added_ms"], flood["accepted_ms"], flood["refused_ms"]
    taken = f"p50 {accepted['50'] / 1000:.1f}"
    rows = [
        ("64 clients at 60 %: errors", "0", f"{steady['errors']} of {steady['requests']}"),
        (
            "what the server adds, p99",
            "15 ms",
            f"{added['99']} ms (p50 {added['50']}, p95 {added['95']})",
        ),
        (
            "ten times the capacity: share of the capacity answered",
            "90 %",
            f"{100 * flood['goodput']:.0f} %",
        ),
        ("accepted, p99", "2 s and the scoring", f"{accepted['99'] / 1000:.1f} s ({taken})"),
        ("refused, p99", "50 ms", f"{refused['99']:.0f} ms (p50 {refused['50']:.0f})"),
        ("refusals without `Retry-After`", "0", str(flood["without_retry_after"])),
        ("growth of memory", "50 MiB", f"{flood['grown_mib']} MiB"),
        ("p99 at 30 % right afterwards", "", f"{flood['afterwards_ms']['99']:.0f} ms"),
    ]
    if soak is not None:
        rows += [
            (f"{soak['seconds'] / 60:.0f} minutes at 70 %: errors", "0", str(soak["errors"])),
            ("growth of memory in 10 minutes", "1 MiB", f"{soak['mib_per_10_minutes']:.2f} MiB"),
            ("threads, minimum and maximum", "the same", "{} and {}".format(*soak["threads"])),
        ]
    return as_table(("", "goal", "measured"), rows)


def _heading(count: str) -> str:
    return f"{count} client{'s' * (count != '1')}"


def _mean(row: Mapping[str, Any]) -> float:
    return sum(row["per_second"]) / len(row["per_second"])


def _drawn(servers: Mapping[str, Any]) -> str:
    counts = list(next(iter(servers.values())))
    first = "guide, async def"
    series = {
        _heading(count): {
            name: _mean(by_count[count]) / max(_mean(servers[first][count]), 1e-9)
            for name, by_count in servers.items()
        }
        for count in counts
    }
    return bars("requests per second relative to the guides' server", series)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write results and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--servers", type=Path, help="what servers/install.py made")
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--requests", type=int, default=2, help="of each client in a turn")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=16.0, help="of each load")
    parser.add_argument("--clients", type=int, nargs="+", default=_CLIENTS)
    parser.add_argument("--stages", nargs="+", default=("load", "throughput", "soak"))
    parser.add_argument("--soak", type=float, default=600.0, help="seconds of the longest stage")
    parser.add_argument("--out", type=Path, help="where results go, as JSON")
    parser.add_argument("--page", type=Path, help="whose tables and plot are written anew")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {"machine": describe_machine()}
    if options.out is not None and options.out.exists():
        results = {**json.loads(options.out.read_text(encoding="utf-8")), **results}
    if "load" in options.stages:
        results["steady"] = measure_steady(seconds=options.seconds)
        results["flood"] = measure_flood(seconds=options.seconds)
    if "throughput" in options.stages:
        with tempfile.TemporaryDirectory() as folder:
            results["throughput"] = measure_throughput(
                MODELS[options.model].build(Path(folder)),
                options.servers,
                requests=options.requests,
                rounds=options.rounds,
                clients=options.clients,
            )
    if "soak" in options.stages:
        results["soak"] = measure_soak(seconds=options.soak)
    made = tables(results)
    for name, table in made.items():
        sys.stdout.write(f"{name}\n{table}\n\n")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.page is not None:
        options.page.write_text(
            fill_marked(options.page.read_text(encoding="utf-8"), made), encoding="utf-8"
        )
        if "throughput" in results:
            folder = options.page.with_suffix("")
            folder.mkdir(exist_ok=True)
            drawing = _drawn(results["throughput"]["servers"])
            (folder / "throughput.svg").write_text(drawing, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
