"""Every metric and label in the dashboard, the rules and the autoscaler exists in a server."""

import re
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from rerank_plugins import load_backend
from rerank_plugins.server import ServerSettings, create_app
from tests.integration.deploy.metrics_queried import DASHBOARD, EXPRESSIONS, RECORDED

SCRAPED = {"job", "instance", "namespace", "pod"}
"""Labels that Prometheus adds to what it scrapes."""
ELSEWHERE = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate"},
    "rerank_canary_mrr_at_10": {"set"},
    "rerank_canary_last_run_timestamp_seconds": {"set"},
    "rerank_canary_last_success_timestamp_seconds": {"set"},
    "container_cpu_usage_seconds_total": {"container"},
    "container_memory_working_set_bytes": {"container"},
    "kube_pod_container_resource_limits": {"container", "resource"},
    "kube_pod_container_resource_requests": {"container", "resource"},
}
"""Series of the canary, of Prometheus, of cAdvisor and of kube-state-metrics."""

ENDINGS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
"""What a series is called after its metric, by the type of that."""

NO_METRICS = re.compile(
    r"sum|min|max|avg|count|rate|increase|absent|time|by|on|and|or|unless|histogram_quantile|"
    r"avg_over_time|label_values|offset|le|bool|\d*[smhdw]"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The names in a server's /metrics and the labels of each, once it has worked."""
    file = tmp_path_factory.mktemp("cache") / "scores.db"
    backend = load_backend({"backend": {"kind": "embedded"}, "cache": {"store": f"sqlite:{file}"}})
    app = create_app(backend, settings=ServerSettings())
    with TestClient(app) as client:
        deadline = time.monotonic() + 60
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        body = {"query": "what is a panda?", "documents": ["A bear.", "A city."]}
        assert client.post("/v1/rerank", json=body).status_code == 200
        assert client.post("/v1/rerank", json={}).status_code == 422
        text = client.get("/metrics").text
    families = [*text_string_to_metric_families(text)]
    labels = {
        family.name: {name for sample in family.samples for name in sample.labels} - {"le"}
        for family in families
    }
    # A series with labels is there once something happened; until then only its name is.
    for collector in app.state.metrics.registry._collector_to_names:
        if names := getattr(collector, "_labelnames", ()):
            assert labels[collector._name] <= set(names)
            labels[collector._name] |= set(names)
    labels_of = {}
    for family in families:
        for ending in ENDINGS.get(family.type, ("",)):
            more = {"le"} if ending == "_bucket" else set()
            labels_of[f"{family.name}{ending}"] = labels[family.name] | more
    return labels_of


def metrics_in(expression):
    """Yield each metric of an expression, and the labels that it is filtered by."""
    bare = re.sub(r"\b(by|on|without|ignoring) *\([^)]*\)", "", expression)
    bare = re.sub(r"label_values\((.*), *\w+\)", r"\1", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    for match in re.finditer(r"([A-Za-z_:][\w:]*)\s*(\{[^}]*\})?", re.sub(r'"[^"]*"', '""', bare)):
        name, filters = match.groups()
        if not NO_METRICS.fullmatch(name):
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", filters or ""))


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
def test_queried_metrics_exist(name, expression, served):
    known = {**served, **ELSEWHERE, **{each: set() for each in RECORDED}}
    queried = [*metrics_in(expression)]
    assert queried
    carried = set(SCRAPED)
    for metric, filters in queried:
        assert metric in known, f"{name} queries {metric}"
        assert filters <= known[metric] | SCRAPED, f"{metric} has no label {filters}"
        carried |= known[metric]
    for grouped in re.findall(r"\bby *\(([^)]*)\)", expression):
        assert set(re.split(r"[,\s]+", grouped.strip())) <= carried, name
    for wanted in re.findall(r"label_values\(.*, *(\w+)\)", expression):
        assert wanted in carried


def test_every_metric_of_the_server_is_in_a_panel_or_an_alert(served):
    wanted = {metric for _, expression in EXPRESSIONS for metric, _ in metrics_in(expression)}
    ours = {name for name in served if re.match(r"rerank_.*(?<!_created)$", name)}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours}
    left = {each for each in families if not any(name.startswith(each) for name in wanted)}

    assert "rerank_padding_ratio" in families
    assert not left


@pytest.mark.parametrize(
    "panel", [p for p in DASHBOARD["panels"] if p["type"] != "row"], ids=lambda p: p["title"]
)
def test_legends_use_only_labels_that_the_query_keeps(panel):
    for target in panel["targets"]:
        labels_left = set(
            re.findall(r"\w+", " ".join(re.findall(r"\bby *\(([^)]*)\)", target["expr"])))
        )
        plain = not re.search(r"\b(sum|max|min|avg)\b", target["expr"])
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert label in labels_left or plain


def test_panels_do_not_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_panels_have_a_title_and_a_description():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"], panel["title"]


def test_goals_of_latency_are_bounds_of_buckets(served):
    """A quantile between two far bounds is a guess; 0.08 s and 0.5 s are goals of users."""
    app = create_app("embedded", settings=ServerSettings())
    bounds = app.state.metrics.duration._upper_bounds

    assert served
    assert {0.08, 0.5} <= set(bounds)
