"""The benchmark of the server: it runs and counts, and its page shows its figures."""

import json

import pytest

from tests.support.places import ROOT

pytest.importorskip("fastapi", reason="needs the extra `server`")
pytest.importorskip("sentence_transformers", reason="the guides' server needs it")

from tests.benchmarks.models import MODELS
from tests.benchmarks.page import fill_marked
from tests.benchmarks.pressure import measure_flood, measure_soak, measure_steady
from tests.benchmarks.serving import measure_throughput, tables

PAGE = ROOT / "docs/server-benchmarks.md"


def test_the_page_shows_the_results_beside_it():
    results = json.loads((PAGE.with_suffix("") / "results.json").read_text("utf-8"))
    text = PAGE.read_text("utf-8")

    assert text == fill_marked(text, tables(results))


def test_a_server_below_capacity_answers_everything():
    figures = measure_steady(seconds=1)

    assert figures["requests"] > 20
    assert 0 == figures["errors"]
    assert 0 <= figures["added_ms"]["50"] <= figures["added_ms"]["99"] <= figures["reply_ms"]["99"]


def test_a_flood_is_answered_or_refused():
    figures = measure_flood(seconds=1, pair_seconds=0.002)

    assert {"200"} <= figures["statuses"].keys() <= {"200", "503"}
    assert 0 == figures["without_retry_after"]


@pytest.mark.parametrize(
    ("seconds", "slope"),
    [
        pytest.param(5, 600, id="short"),  # a MiB a second is only noise in so short a time
        pytest.param(1800, 1, marks=[pytest.mark.nightly, pytest.mark.timeout(2000)], id="long"),
    ],
)
def test_a_servers_resources_do_not_grow(seconds, slope):
    figures = measure_soak(seconds=seconds)

    assert 0 == figures["errors"]
    assert figures["files"][1] - figures["files"][0] <= 32, "a connection of each client"
    assert figures["threads"][1] - figures["threads"][0] <= 2
    assert figures["mib_per_10_minutes"] <= slope


@pytest.mark.nightly
def test_servers_get_requests_in_turns(tmp_path):
    figures = measure_throughput(
        MODELS["tiny"].build(tmp_path), None, requests=2, rounds=1, clients=[2]
    )

    assert ["rerank-plugins serve", "guide, async def", "guide, def"] == [*figures["servers"]]
    for rows in figures["servers"].values():
        assert 0 == rows["2"]["errors"]
        assert rows["2"]["per_second"][0] > 0
        assert 0 < rows["2"]["ms"]["50"] <= rows["2"]["ms"]["95"]
