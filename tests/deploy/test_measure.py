"""A server is measured on real questions, and what it promises is checked."""

import json
import threading
import time
from contextlib import contextmanager

import manifests
import measure
import pytest
import uvicorn

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
        code = measure.main(spec.replace("rerank-candidate", address), str(labelled))
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
        code = measure.main(f"infinity+http://{address}?api_key_env=RERANK_API_KEY", str(labelled))

    assert code == 1
    assert "AuthenticationError" in capsys.readouterr().err


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
