"""The benchmark suite works, on a tiny model; no test measures speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT

pytest.importorskip("sentence_transformers", reason="needs the extra `local`")
pytest.importorskip("httpx")

from rerank_plugins import BackendUnavailable
from tests.benchmarks.agreement import kendall_tau, real_requests
from tests.benchmarks.flatness import slope
from tests.benchmarks.goals import goals, ratio
from tests.benchmarks.models import MODELS
from tests.benchmarks.page import fill, plots, tables
from tests.benchmarks.peer import Peer

PAGES = sorted((ROOT / "docs").glob("benchmarks*.md"))


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(["import", "http", "cache"], id="short"),
        pytest.param(
            ["peak", "footprint", "load", "flatness-onnx"], id="long", marks=pytest.mark.nightly
        ),
    ],
)
@pytest.mark.timeout(400)
def test_one_command_measures_and_writes_the_page(others, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- results: speed-tiny -->\nold\n<!-- end -->\n![](page/speed-tiny.svg)\n")
    stages = ["speed-tiny", *others]
    subprocess.run(
        [
            sys.executable,
            ROOT / "tests" / "benchmarks" / "run.py",
            *("--size", "tiny", "--stages", *stages),
            *("--models", tmp_path, "--out", tmp_path / "out.json", "--page", page),
        ],
        check=True,
        capture_output=True,
    )
    results = json.loads((tmp_path / "out.json").read_text())
    figures = results["speed-tiny"]["found"]
    measured = figures["rounds"][0]["wall"]

    assert sorted(stages) == sorted(results)
    ours = [name for name in figures["missing"] if "rerank-plugins" in name]
    assert {"rerank-plugins, torch bfloat16"} >= {*ours}, "only some processors have bfloat16"
    assert {"sentence-transformers", "rerank-plugins, onnx"} < measured.keys()
    assert {1} == {len(seconds) for seconds in measured.values()}
    assert "**rerank-plugins, onnx int8**" in page.read_text()
    assert "<svg" in (tmp_path / "page" / "speed-tiny.svg").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_the_results_beside_it(page, tmp_path):
    """Change both at once, by `run.py --page`."""
    copy = tmp_path / page.name
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    results = json.loads((page.with_suffix("") / "results.json").read_text(encoding="utf-8"))
    fill(copy, results)

    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
    for plot in page.with_suffix("").glob("*.svg"):
        assert plots(results)[plot.stem] == plot.read_text(encoding="utf-8")


def test_ratios_are_taken_call_by_call():
    wall = {"sentence-transformers": [1.0, 9.0, 2.0], "other": [0.5, 3.0, 0.1]}

    assert 3.0 == ratio({"wall": wall}, "wall", "other")


def test_a_missed_goal_is_reported_as_missed():
    figures = {"import_ms": 150.0, "import_ms_least": 140.0, "python_ms": 20.0}

    assert [("`import rerank_plugins` in 100 ms", "150 ms", "missed")] == goals(
        {"import": {"found": figures}}
    )


def test_no_results_make_no_tables():
    assert {} == tables({})


@pytest.mark.parametrize(
    ("other", "tau"), [([1, 2, 3], 1.0), ([3, 2, 1], -1.0), ([1, 3, 2], 1 / 3), ([1, 1, 1], 0.0)]
)
def test_kendall_tau(other, tau):
    assert pytest.approx(tau) == kendall_tau([0.1, 0.2, 0.3], other)


def test_slope_of_a_line():
    assert pytest.approx(2.0) == slope([(0, 5), (1, 7), (2, 9)])
    assert 0.0 == slope([(4, 7)])


def test_flops_of_a_pair():
    """As torch's FlopCounterMode counts them for MiniLM-L6 at 256 tokens."""
    assert pytest.approx(6.04e9, rel=1e-3) == MODELS["minilm"].flops(256)


def test_requests_are_real_and_distinct():
    requests = real_requests(4, 12)

    assert 4 == len(requests)
    assert all(12 == len(set(documents)) for _, documents in requests)


def test_a_worker_that_cannot_load_says_why(tmp_path):
    with (
        (tmp_path / "log").open("w") as log,
        Peer(
            "gone",
            python=Path(sys.executable),
            loader="backend",
            model=tmp_path,
            options={"spec": "nonsense:{model}"},
            log=log,
        ) as peer,
        pytest.raises(BackendUnavailable, match=r"gone: ConfigError: .*nonsense"),
    ):
        peer.score("query", ["document"])


@pytest.mark.nightly  # what it measures needs a GPU, which CI has none of
@pytest.mark.timeout(400)
def test_the_gpu_command_runs_through(tmp_path):
    """On the CPU with tiny models; only the stages that need CUDA are left out."""
    out, page = tmp_path / "out.json", tmp_path / "table.md"
    subprocess.run(
        [
            sys.executable,
            ROOT / "tests" / "benchmarks" / "gpu.py",
            *("--tiny", "--device", "cpu", "--out", out, "--table", page),
        ],
        check=True,
        capture_output=True,
    )
    results = json.loads(out.read_text())
    rows = {(row["model"], row["scorer"]): row for row in results["rows"]}

    assert [] == results["not_run"]
    assert {"tiny", "tiny-qwen3"} == {model for model, _ in rows}
    for (_, scorer), row in rows.items():
        assert row["pairs_per_second"] > 0
        assert row["largest_difference"] < 1e-3 or "bfloat16" in scorer
    assert all(name in page.read_text() for _, name in rows)
