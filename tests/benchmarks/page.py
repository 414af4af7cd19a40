"""From results to a page: tables between its markers, and plots beside it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import CONTENDERS, REFERENCE
from tests.benchmarks.goals import goals, ratio
from tests.benchmarks.models import MODELS
from tests.benchmarks.plot import bars, line

__all__ = ["as_table", "fill", "fill_marked", "in_bold", "plots", "tables"]

_MARKED = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(page: Path | None, results: Mapping[str, Any]) -> str:
    """Write the tables into the page and the plots into its folder; return the tables."""
    made = tables(results)
    if page is not None:
        text = page.read_text(encoding="utf-8")
        page.write_text(fill_marked(text, made), encoding="utf-8")
        folder = page.with_suffix("")
        folder.mkdir(exist_ok=True)
        for name, drawing in plots(results).items():
            if f"{folder.name}/{name}.svg" in text:
                (folder / f"{name}.svg").write_text(drawing, encoding="utf-8")
    return "\n\n".join(f"{name}\n{table}" for name, table in made.items())


def fill_marked(text: str, made: Mapping[str, str]) -> str:
    """Put each table between the markers of its name."""
    return _MARKED.sub(lambda m: f"{m[1]}{made.get(m[2], 'Not measured.')}\n{m[3]}", text)


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Return each section that the results allow, as Markdown, by its name."""
    writers = {
        "peak": _peak,
        "operators": _operators,
        "agreement": _agreement,
        "start": _start,
        "footprint": _footprint,
        "import": _import,
        "http": _http,
        "load": _load,
        "cache": _cache,
    }
    made = {
        name: write(results[name]["found"]) for name, write in writers.items() if name in results
    }
    speeds = [name for name in results if name.startswith("speed-")]
    for name in speeds:
        made[name] = _speed(results[name]["found"])
    if speeds and "peak" in results:
        made["floor"] = _floor([results[n]["found"] for n in speeds], results["peak"]["found"])
    if flat := {n: r["found"] for n, r in results.items() if n.startswith("flatness-")}:
        made["flatness"] = _flatness(flat)
    if speeds:
        made["memory"] = _memory(results[min(speeds, key=len)]["found"]["memory"])
        made["machine"] = _machine({name: result["measured"] for name, result in results.items()})
        made["goals"] = as_table(("goal", "measured", ""), goals(results))
    return made


def plots(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the plots that the results allow, as SVG, by name."""
    made = {}
    for name, result in results.items():
        figures = result["found"]
        if name.startswith("speed-"):
            rounds = figures["rounds"]
            made[name] = bars(
                f"{MODELS[figures['model']].title}: speedup over sentence-transformers",
                {_title(r): {c: ratio(r, "wall", c) for c in r["wall"]} for r in rounds},
            )
    flat = {n.removeprefix("flatness-"): r["found"] for n, r in results.items() if "flatness" in n}
    if flat:
        most = max(figures["pairs"] for figures in flat.values())
        made["flatness"] = line(
            "Memory of the process, MiB",
            {n: f["mib"] for n, f in flat.items()},
            f"0 to {most:,} pairs",
        )
    return made


def _title(measured: Mapping[str, Any]) -> str:
    return f"{measured['mix']} {measured['shape'].replace('x', '×')}"


def _speed(figures: Mapping[str, Any]) -> str:
    rounds = figures["rounds"]
    names = [name for name in CONTENDERS if name in rounds[0]["wall"]]
    rows = [
        (
            in_bold(name),
            *(
                f"{ratio(r, 'wall', name):.2f} / {ratio(r, 'cpu', name):.2f}"
                if name in r["wall"]
                else "–"
                for r in rounds
            ),
        )
        for name in names
    ]
    table = as_table(("", *(_title(r) for r in rounds)), rows)
    counts = ", ".join(f"{_title(r)}: {len(r['wall'][REFERENCE])}" for r in rounds)
    lines = [table, "", f"Measured calls per contender: {counts}."]
    if figures["missing"]:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in figures["missing"].items())
        lines += ["", f"Not measured: {reasons}."]
    return "\n".join(lines)


def _floor(speeds: Sequence[Mapping[str, Any]], peak: Mapping[str, Any]) -> str:
    limit = len(peak) * max(speed for name, speed in peak["1"].items() if "float32" in name)
    rows = []
    for stage in speeds:
        for r in stage["rounds"]:
            cells = []
            for name in (REFERENCE, "rerank-plugins, onnx", "rerank-plugins, onnx int8"):
                rate = r["pairs"] / statistics.median(r["wall"][name])
                cells.append(f"{rate:.1f} / {100 * rate * r['gflop_per_pair'] / limit:.0f} %")
            tokens, work = f"{r['tokens_per_pair']:.0f}", f"{r['gflop_per_pair']:.1f}"
            rows.append((stage["model"], _title(r), tokens, work, *cells))
    columns = ("model", "", "tokens", "GFLOP", REFERENCE, "onnx", "onnx int8")
    return as_table(columns, rows)


def _peak(figures: Mapping[str, Any]) -> str:
    kinds = list(next(iter(figures.values())))
    rows = [
        (threads, *(str(speeds[kind]) for kind in kinds)) for threads, speeds in figures.items()
    ]
    return as_table(("threads", *kinds), rows)


def _operators(figures: Mapping[str, Any]) -> str:
    rows = []
    for dtype, spent in figures["ms"].items():
        total = sum(spent.values())
        shares = [f"{name} {100 * ms / total:.0f} %" for name, ms in spent.items()]
        rows.append((dtype, f"{total:.1f}", ", ".join(shares[:6])))
    return as_table(("", f"ms for {figures['tokens']} tokens", "share of the time"), rows)


def _agreement(figures: Mapping[str, Any]) -> str:
    rows = [
        (
            in_bold(name),
            str(row["queries"]),
            f"{row['tau']:.4f}",
            f"{row['worst_tau']:.3f}",
            f"{row['logit_difference']:.1e}",
            f"{row['probability_difference']:.1e}",
        )
        for name, row in figures["rows"].items()
    ]
    differences = ("largest difference of logits", "of probabilities")
    columns = ("", "questions", "Kendall τ", "worst τ", *differences)
    return (
        f"{as_table(columns, rows)}\n\nThe questions are from "
        f"{' and '.join(figures['sets'])}, {figures['documents']} passages each; the logits have a "
        f"standard deviation of {figures['logit_deviation']:.2f}."
    )


def _start(figures: Mapping[str, Any]) -> str:
    rows = [
        (
            in_bold(name),
            f"{statistics.median(seconds):.2f}",
            f"{statistics.median(figures['cpu'][name]):.2f}",
            str(figures["memory"][name]),
        )
        for name, seconds in figures["wall"].items()
    ]
    return as_table(("", "wall s", "processor s", "MiB afterwards"), rows)


def _memory(figures: Mapping[str, Any]) -> str:
    rows = [
        (
            in_bold(name),
            str(row["loaded"]),
            str(row["now"]),
            str(row["peak"]),
            str(row["anonymous"]),
        )
        for name, row in figures.items()
    ]
    columns = ("", "after two pairs", "at the end", "peak", "at the end, anonymous")
    return as_table(columns, rows)


def _footprint(figures: Mapping[str, Any]) -> str:
    rows = [
        (
            model,
            in_bold(name),
            str(row["weights"]),
            str(process["loaded"]),
            str(process["peak"]),
            f"{process['peak'] - row['weights']:+}",
        )
        for model, row in figures["models"].items()
        for name, process in row["processes"].items()
    ]
    columns = ("model", "", "weights' file", "loaded", "peak", "peak over the weights")
    return (
        f"{as_table(columns, rows)}\n\nEach scored {figures['documents']} documents of natural "
        "length, and 20 of 512 tokens."
    )


def _import(figures: Mapping[str, Any]) -> str:
    return (
        f"`import rerank_plugins` takes {figures['import_ms']:.0f} ms (fastest: "
        f"{figures['import_ms_least']:.0f} ms); Python itself starts in "
        f"{figures['python_ms']:.0f} ms."
    )


def _http(figures: Mapping[str, Any]) -> str:
    rows = [
        (in_bold(n), f"{figures[n]['wall_ms']:.2f}", f"{figures[n]['cpu_ms']:.2f}")
        for n in ("httpx", "rerank-plugins")
    ]
    ours, bare = figures["rerank-plugins"], figures["httpx"]
    quotients = (f"{ours[k] / bare[k]:.2f}" for k in ("wall_ms", "cpu_ms"))
    return as_table(("", "wall ms", "processor ms"), [*rows, ("ratio", *quotients)])


def _load(figures: Mapping[str, Any]) -> str:
    keys = ("p50_ms", "p99_ms", "cpu_ms", "per_second")
    ours, bare = figures["rerank-plugins"], figures["httpx"]
    rows = [
        (in_bold(n), *(f"{figures[n][key]:.{1 + (key == 'cpu_ms')}f}" for key in keys))
        for n in ("httpx", "rerank-plugins")
    ]
    quotients = (f"{ours[key] / bare[key]:.2f}" for key in keys)
    columns = ("", "median ms", "p99 ms", "processor ms per call", "calls per second")
    return (
        f"{as_table(columns, [*rows, ('ratio', *quotients)])}\n\n{figures['callers']:,} callers, "
        f"{figures['calls']:,} calls; of {figures['rounds']} rounds the one with the median p99."
    )


def _cache(figures: Mapping[str, Any]) -> str:
    rows = [
        (store, f"{ms:.2f}", f"{1000 * ms / figures['pairs']:.1f}")
        for store, ms in figures["ms"].items()
    ]
    table = as_table(("store", f"ms for {figures['pairs']} known pairs", "µs per pair"), rows)
    if "redis_commands_per_call" not in figures:
        return table
    return f"{table}\n\nRedis gets {figures['redis_commands_per_call']:g} command per call."


def _flatness(figures: Mapping[str, Any]) -> str:
    rows = [
        (
            name.removeprefix("flatness-"),
            f"{row['pairs']:,}",
            str(row["mib"][len(row["mib"]) // 4]),
            str(row["mib"][-1]),
            f"{row['mib_per_10k_pairs']:+.2f}",
        )
        for name, row in figures.items()
    ]
    columns = ("engine", "pairs", "MiB after a quarter", "at the end", "slope, MiB per 10,000")
    return as_table(columns, rows)


def _machine(measured: Mapping[str, Mapping[str, Any]]) -> str:
    last = max(measured.values(), key=lambda moment: moment["date"])
    dates = [moment["date"] for moment in measured.values()]
    versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
    loads = ", ".join(f"{name} {moment['load']:.1f}" for name, moment in measured.items())
    rows = [
        ("processor", f"{last['processor']}, {last['cores']} cores, virtual"),
        ("instructions", ", ".join(last["flags"])),
        ("memory", f"{last['memory_gib']} GiB"),
        ("system", last["system"]),
        ("versions", versions),
        ("measured", f"{min(dates)} to {max(dates)}"),
        ("load of the machine before each stage", loads),
    ]
    return as_table(("", ""), rows)


def in_bold(name: str) -> str:
    """Return a contender's name as tables show it: ours stand out."""
    return f"**{name}**" if name.startswith("rerank-plugins") else name


def as_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
