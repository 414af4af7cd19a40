"""A server is measured on real questions, and what it promises is checked."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import manifests
import measure
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from recipes import DEPLOY

from rerank_plugins import Backend, load_backend
from rerank_plugins.server import ServerSettings, create_app

IMAGE = "registry.example.com/rerank-plugins@sha256:" + "a" * 64
KEY = "a-key-of-the-tests-0123"


@contextmanager
def served(settings):
    app = create_app(load_backend("embedded"), settings=settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started or app.state.lifecycle.why_not_ready() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (listening,) = [each for found in server.servers for each in found.sockets]
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


def test_a_real_server_is_measured_on_real_questions(labelled, monkeypatch, capsys):
    monkeypatch.setenv("KEYS", f"canary:{KEY}")
    monkeypatch.setenv("RERANK_API_KEY", KEY)
    job = manifests.measuring_job(IMAGE, "rerank-candidate")
    (spec, _) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    with served(ServerSettings(api_keys_env="KEYS")) as address:
        code = measure.main([spec.replace("rerank-candidate", address), str(labelled)])
    figures = json.loads(capsys.readouterr().out)
    places = []
    with load_backend("embedded") as backend:
        for line in labelled.read_text().splitlines():
            case = json.loads(line)
            scores = backend.score(case["query"], case["documents"])
            places.append(1 + sum(score > scores[2] for score in scores))

    assert code == 0
    assert figures["queries"] == 30
    assert figures["mrr_at_10"] == pytest.approx(sum(1 / place for place in places) / 30)
    assert 0.75 < figures["mrr_at_10"] <= 1
    assert 0 < figures["p95_seconds"] < 60


def test_a_wrong_key_fails_the_measurement(labelled, monkeypatch, capsys):
    monkeypatch.setenv("KEYS", f"canary:{KEY}")
    monkeypatch.setenv("RERANK_API_KEY", "another-key-of-the-tests")
    with served(ServerSettings(api_keys_env="KEYS")) as address:
        spec = f"infinity+http://{address}?api_key_env=RERANK_API_KEY"
        code = measure.main([spec, str(labelled)])

    assert code == 1
    assert "AuthenticationError" in capsys.readouterr().err


class Gateway(BaseHTTPRequestHandler):
    """Takes what a Pushgateway takes."""

    taken: ClassVar[list[tuple[str, str, str]]] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.taken.append((self.command, self.path, body))
        self.send_response(202)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def gateway():
    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Gateway.taken.clear()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_example_set_is_measured_and_pushed_under_its_name(gateway, capsys):
    """The canary of the recipe, with its own set, and the embedded model behind the server."""
    labelled = DEPLOY / "kubernetes" / "base" / "labelled.jsonl"
    with served(ServerSettings()) as address:
        arguments = [f"infinity+http://{address}", str(labelled), f"--push={gateway}"]
        code = measure.main([*arguments, "--least-mrr=0.75"])
    figures = json.loads(capsys.readouterr().out)
    ((command, path, body),) = Gateway.taken
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }

    assert code == 0
    assert (command, path) == ("POST", "/metrics/job/rerank-canary/set/labelled")
    assert found["rerank_canary_mrr_at_10"] == pytest.approx(figures["mrr_at_10"])
    age = time.time() - found["rerank_canary_last_success_timestamp_seconds"]
    assert 0 <= age < 120


def test_a_low_mrr_is_pushed_and_fails_the_job(gateway, tmp_path, capsys):
    case = {"query": "what is a panda?", "documents": ["A bear of China.", "x"], "relevant": [1]}
    labelled = tmp_path / "low.jsonl"
    labelled.write_text(json.dumps(case) + "\n")
    with served(ServerSettings()) as address:
        arguments = [f"infinity+http://{address}", str(labelled), f"--push={gateway}"]
        code = measure.main([*arguments, "--least-mrr=0.75"])

    assert code == 1
    assert json.loads(capsys.readouterr().out)["mrr_at_10"] == 0.5
    assert "rerank_canary_mrr_at_10 0.5" in Gateway.taken[0][2]


def test_a_server_that_refuses_pushes_nothing(gateway, monkeypatch, capsys):
    labelled = DEPLOY / "kubernetes" / "base" / "labelled.jsonl"
    monkeypatch.setenv("KEYS", f"canary:{KEY}")
    with served(ServerSettings(api_keys_env="KEYS")) as address:
        code = measure.main([f"infinity+http://{address}", str(labelled), f"--push={gateway}"])

    assert code == 1
    assert not Gateway.taken


class Liar(Backend):
    """Scores as a function of the documents says."""

    name = "liar"

    def __init__(self, lie):
        self.lie = lie

    def score(self, query, documents):
        return self.lie(list(documents))


COUNTER = iter(range(1000))
LIES = {
    "not finite": lambda documents: [float("nan")] * len(documents),
    "got other scores": lambda documents: [float(next(COUNTER)) for _ in documents],
    "order of the documents": lambda documents: [i / 10 for i in range(len(documents))],
    "equal documents": lambda documents: [
        len(text) / 100 + (len(set(documents)) == 1) * i for i, text in enumerate(documents)
    ],
}


@pytest.mark.parametrize("reason", LIES)
def test_broken_promises_are_found(reason):
    with pytest.raises(measure.PromiseBrokenError, match=reason):
        measure.check_promises(Liar(LIES[reason]))
