"""The server's metrics of what happens inside a chain of backends."""

import re
from pathlib import Path

import pytest

from tests.support.places import ROOT
from tests.support.ports import free_port

pytest.importorskip("fastapi", reason="needs the extra `server`")

from prometheus_client.parser import text_string_to_metric_families

from rerank_plugins import load_backend
from rerank_plugins.server.isolation import isolate
from rerank_plugins.server.settings import ServerSettings
from rerank_plugins.wrappers.process import ModelProcess
from tests.support.serving import serving

BODY = {"query": "what is a panda?", "documents": ["A bear.", "A city."]}


def values(client, name):
    """Return the values of a metric by its labels."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == name
    }


def test_cache_lookups_are_counted_by_pairs(tmp_path):
    spec = {"backend": {"kind": "embedded"}, "cache": {"store": f"sqlite:{tmp_path}/scores.db"}}
    with serving(load_backend(spec), warm_up=False) as client:
        for _ in range(2):
            assert client.post("/v1/rerank", json=BODY).status_code == 200
        lookups = values(client, "rerank_cache_lookups_total")

    assert lookups[("result", "miss"), ("tier", "sqlite")] == 2
    assert lookups[("result", "hit"), ("tier", "sqlite")] == 2


def test_a_fallback_and_the_attempts_before_it_are_counted():
    port = free_port()
    spec = {
        "backend": {"kind": "infinity", "base_url": f"http://127.0.0.1:{port}"},
        "breaker": {},
        "fallback": [{"kind": "embedded"}],
    }
    with serving(load_backend(spec)) as client:
        assert client.post("/v1/rerank", json=BODY).status_code == 200
        fallbacks = values(client, "rerank_fallback_total")
        attempts = values(client, "rerank_client_attempts_total")
        states = values(client, "rerank_breaker_state")
        requests = values(client, "rerank_requests_total")

    assert sum(fallbacks.values()) == 1
    assert {f"127.0.0.1:{port}"} == {dict(labels)["endpoint"] for labels in attempts}
    assert ("outcome", "ok") not in {label for labels in attempts for label in labels}
    assert list(states.values()) == [0]
    assert requests[("outcome", "ok"), ("route", "/v1/rerank")] == 1  # counted once, at the edge


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda backend: backend, id="here"),
        pytest.param(ModelProcess, id="process", marks=pytest.mark.slow),
    ],
)
def test_the_work_of_a_local_model_is_counted(checkpoint, wrap):
    """Also where it has a process of its own, which knows no metrics."""
    spec = f"local:{checkpoint('bert')}?engine=torch&attention=padded&long_documents=truncate"
    backend = load_backend(spec)
    body = {"query": "panda", "documents": ["bear", "bear " * 600]}
    with serving(wrap(backend)) as client:
        for _ in range(2):
            assert client.post("/v1/rerank", json=body).status_code == 200
        cut = values(client, "rerank_truncated_pairs_total")
        padding = values(client, "rerank_padding_ratio_sum")
        batches = values(client, "rerank_padding_ratio_count")
        memory = values(client, "rerank_device_memory_bytes")

    name = ("model", Path(checkpoint("bert")).name)
    assert {(): 2} == cut
    assert {(name,): 2} == batches
    assert 0.9 < padding[name,] < 1  # half of each
    assert 2**20 < memory[("kind", "resident"), name]


@pytest.mark.parametrize(
    "place", [lambda chain: chain, lambda chain: isolate(chain, ServerSettings())],
    ids=["here", "process"],
)  # fmt: skip
def test_the_work_of_a_chains_models_is_counted_by_model(checkpoint, place):
    port = free_port()
    chain = load_backend(
        {
            "backend": {"kind": "infinity", "base_url": f"http://127.0.0.1:{port}"},
            "fallback": [{"kind": "local", "model": checkpoint("bert"), "engine": "onnx"}],
        }
    )
    with serving(place(chain)) as client:
        assert client.post("/v1/rerank", json=BODY).status_code == 200
        calls = values(client, "rerank_padding_ratio_count")
        memory = values(client, "rerank_device_memory_bytes")

    name = ("model", Path(checkpoint("bert")).name)
    assert {(name,): 1} == calls
    assert 2**20 < memory[("kind", "resident"), name]


def test_the_page_lists_exactly_the_metrics_of_a_server():
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(rerank_\w+)` \| (\w+) ", page, re.MULTILINE))
    with serving(load_backend("embedded"), warm_up=False) as client:
        metrics = {
            (metric.name + ("_total" if metric.type == "counter" else ""), metric.type)
            for metric in client.app.state.metrics.registry.collect()
            if metric.name.startswith("rerank_")
        }

    assert metrics == listed
