"""The canary: what it measures and publishes, and what remains after a failure."""

import json
import time

import pytest

from rerank_plugins import ConfigError
from rerank_plugins.evaluation import evaluate, load_dataset
from rerank_plugins.evaluation.canary import Canary, CanaryRun, baseline_of, check
from rerank_plugins.evaluation.report import as_json
from rerank_plugins.testing import FakeBackend
from tests.support.pushgateway import pushgateway

parser = pytest.importorskip("prometheus_client.parser", reason="needs the extra `prometheus`")

RUN = CanaryRun(
    {"MRR@10": 0.75, "nDCG@10": 0.8},
    {"MRR@10": 0.5, "nDCG@10": 0.6},
    queries=40,
    seconds=1.5,
    p95_seconds=0.03,
)


def read(text):
    """Return metric → value of the set `demo`."""
    return {
        sample.name: sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels == {"set": "demo"} and not sample.name.endswith("_created")
    }


def test_it_measures_what_an_evaluation_measures():
    data, backend = load_dataset("demo:covidqa"), FakeBackend()
    run = check(backend, data, depth=10)
    before, after = evaluate(data, [backend], depth=10).systems

    for metric in ("MRR@10", "nDCG@10"):
        assert pytest.approx(before.figures[metric].mean) == run.before[metric]
        assert pytest.approx(after.figures[metric].mean) == run.figures[metric]
    assert 40 == run.queries


@pytest.mark.parametrize("depth", [0, -1, 2.5])
def test_a_depth_that_is_not_a_positive_integer_is_refused(depth):
    with pytest.raises(ConfigError, match="a depth must be an integer from 1"):
        check(FakeBackend(), load_dataset("demo:covidqa"), depth=depth)


def test_the_95th_percentile_is_of_single_queries():
    """Of 40 calls, 38 must have ended: two may be slow, three may not."""

    class Slow(FakeBackend):
        slow = 0

        def score(self, query, documents):
            if len(documents) > 1 and self.slow:  # not the call that warms up
                self.slow -= 1
                time.sleep(0.2)
            return super().score(query, documents)

    data, backend, percentiles = load_dataset("demo:covidqa"), Slow(), []
    for backend.slow in (2, 3):
        percentiles.append(check(backend, data, depth=3).p95_seconds < 0.2)

    assert [True, False] == percentiles


def test_a_text_file_holds_the_figures(tmp_path):
    path = tmp_path / "textfiles" / "rerank.prom"
    Canary("demo", textfile=path).succeeded(RUN, regression=True)
    metrics = read(path.read_text())

    assert abs(metrics.pop("rerank_canary_last_success_timestamp_seconds") - time.time()) < 60
    assert abs(metrics.pop("rerank_canary_last_run_timestamp_seconds") - time.time()) < 60
    assert {
        "rerank_canary_mrr_at_10": 0.75,
        "rerank_canary_ndcg_at_10": 0.8,
        "rerank_canary_first_stage_mrr_at_10": 0.5,
        "rerank_canary_queries": 40,
        "rerank_canary_duration_seconds": 1.5,
        "rerank_canary_regression": 1,
        "rerank_canary_failures_total": 0,
    } == metrics
    assert ["rerank.prom"] == [file.name for file in path.parent.iterdir()]


def test_failures_are_counted_across_restarts_and_keep_the_last_figures(tmp_path):
    path = tmp_path / "rerank.prom"
    Canary("demo", textfile=path).succeeded(RUN, regression=False)
    success = read(path.read_text())["rerank_canary_last_success_timestamp_seconds"]
    for _ in range(2):
        Canary("demo", textfile=path).failed()
    metrics = read(path.read_text())

    assert 2 == metrics["rerank_canary_failures_total"]
    assert 0.75 == metrics["rerank_canary_mrr_at_10"]
    assert success == metrics["rerank_canary_last_success_timestamp_seconds"]
    assert success <= metrics["rerank_canary_last_run_timestamp_seconds"]


def test_a_first_failure_publishes_no_figure(tmp_path):
    path = tmp_path / "rerank.prom"
    Canary("demo", textfile=path).failed()

    assert 1 == read(path.read_text())["rerank_canary_failures_total"]
    assert "rerank_canary_mrr_at_10" not in path.read_text()


@pytest.mark.parametrize("content", [b"rerank_canary{", b"\xff\xfe", b""])
def test_a_broken_text_file_is_written_anew(tmp_path, content):
    path = tmp_path / "rerank.prom"
    path.write_bytes(content)
    Canary("demo", textfile=path).failed()

    assert 1 == read(path.read_text())["rerank_canary_failures_total"]


def test_a_pushgateway_gets_the_figures():
    with pushgateway() as gateway:
        Canary("demo", gateway=gateway.url).succeeded(RUN, regression=False)
    ((path, pushed),) = gateway.groups.items()

    assert "/metrics/job/rerank-canary/set/demo" == path
    assert 0.75 == gateway.values(path)["rerank_canary_mrr_at_10"]
    assert all(
        {"set": "demo"} == sample.labels for each in pushed.values() for sample in each.samples
    )


def test_an_unreachable_gateway_is_an_os_error():
    with pytest.raises(OSError, match="refused"):
        Canary("demo", gateway="http://127.0.0.1:9").failed()


class TestBaseline:
    @pytest.fixture
    def results(self, tmp_path):
        path = tmp_path / "results.json"
        backends = {"a": FakeBackend(name="a"), "b": FakeBackend(lambda q, d: 0.0, name="b")}
        path.write_text(as_json(evaluate(load_dataset("demo:xquad-zh"), backends, depth=5)))
        return path

    def test_is_the_mean_of_the_backend_that_is_named(self, results):
        systems = json.loads(results.read_text())["systems"]

        assert systems[1]["figures"]["MRR@10"]["mean"] == baseline_of(results, "MRR@10", label="a")

    @pytest.mark.parametrize("label", [None, "c"])
    def test_must_be_named_if_there_are_several(self, results, label):
        with pytest.raises(ConfigError, match="valid: 'a', 'b'"):
            baseline_of(results, "MRR@10", label=label)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"systems": [{}, {"label": "x"}]}'])
    def test_a_file_that_is_not_an_evaluation_is_refused(self, tmp_path, text):
        path = tmp_path / "results.json"
        path.write_text(text)

        with pytest.raises(ConfigError, match=r"results.json' holds no MRR@10"):
            baseline_of(path, "MRR@10")

    def test_a_missing_file_is_named_in_the_error(self, tmp_path):
        with pytest.raises(ConfigError, match=r"can't read .*none.json"):
            baseline_of(tmp_path / "none.json", "MRR@10")
