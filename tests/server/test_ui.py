"""The page at `/ui` as the server sends it."""

import base64
import hashlib
import json
import re
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from starlette.testclient import TestClient

from rerank_plugins import load_backend
from rerank_plugins.backends.local.lockfile import lock_of
from rerank_plugins.server import ServerSettings, create_app
from rerank_plugins.server import ui as module
from tests.support.serving import serving

HTML = Path(module.__file__).with_name("ui.html").read_text(encoding="utf-8")
KEY = "a-key-of-the-tests-0123"


@pytest.fixture
def keyed(monkeypatch):
    """A client of a server that wants a key, and can compare with another backend."""
    monkeypatch.setenv("RERANK_API_KEYS", f"tests:{KEY}")
    settings = {"api_keys_env": "RERANK_API_KEYS", "compare": ("embedded?max_length=16",)}
    with serving(load_backend("embedded"), **settings) as client:
        yield client


def test_the_page_loads_nothing_from_elsewhere():
    assert not re.search(r"\b(src|href|srcset|action|poster)\s*=", HTML)
    assert not re.search(r"@import|url\(|import\s*\(|https?://(?!www\.w3\.org/2000/svg)", HTML)


def test_the_page_never_turns_text_into_markup():
    never = "innerHTML|outerHTML|insertAdjacentHTML|document.write|DOMParser|eval\\(|new Function"

    assert not re.search(never, HTML)


def test_the_page_stores_nothing():
    script = re.search(r"<script>(.*?)</script>", HTML, re.DOTALL)[1]
    code = re.sub(r"//.*", "", script)

    assert not re.search("localStorage|sessionStorage|indexedDB|document.cookie", code)


def test_only_its_own_script_and_style_may_run():
    client = TestClient(create_app("embedded", settings=ServerSettings()))
    reply = client.get("/ui")
    policy = dict(
        part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; ")
    )

    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    for tag in ("script", "style"):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", reply.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "style=" not in re.sub(r"<script>.*", "", reply.text, flags=re.DOTALL)
    assert not re.search(r"<[^>]+\son\w+=", reply.text)


def test_the_page_needs_no_key_and_everything_it_fetches_does(keyed):
    assert keyed.get("/ui").status_code == 200
    assert keyed.get("/ui/backends").status_code == 401
    assert keyed.post("/ui/rerank/1", json={"query": "q", "documents": ["d"]}).status_code == 401


def test_backends_with_one_name_have_different_names_on_the_page(keyed):
    backends = keyed.get("/ui/backends", headers={"Authorization": f"Bearer {KEY}"}).json()

    assert backends == {
        "backends": [
            {"name": "embedded", "path": "v1/rerank"},
            {"name": "embedded?max_length=16", "path": "ui/rerank/1"},
        ],
        "ready": True,
    }


def test_a_compared_backend_scores_as_it_does_alone(keyed):
    documents = ["A bear.", "A very long text about a bear " * 20, "A city."]
    body = {"query": "what is a bear?", "documents": documents}
    headers = {"Authorization": f"Bearer {KEY}"}
    deadline = 60
    while (reply := keyed.post("/ui/rerank/1", json=body, headers=headers)).status_code == 503:
        deadline -= 1
        assert deadline, reply.text
    scores = {item["index"]: item["relevance_score"] for item in reply.json()["results"]}
    alone = load_backend("embedded?max_length=16").score(body["query"], documents)

    assert [scores[index] for index in range(3)] == pytest.approx(alone, abs=1e-6)


def test_comparing_is_not_counted_as_the_servers_own_work(keyed):
    headers = {"Authorization": f"Bearer {KEY}"}
    keyed.post("/ui/rerank/1", json={"query": "q", "documents": ["a", "b"]}, headers=headers)

    assert "rerank_pairs_total 0.0" in keyed.get("/metrics", headers=headers).text


def test_a_compared_backend_that_fails_to_load_is_named_in_the_log(tmp_path, caplog):
    missing = str(tmp_path / "missing")
    with serving(load_backend("embedded"), compare=(f"local:{missing}",)) as client:
        deadline = time.monotonic() + 60
        while "can't compare with" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        answer = client.post("/v1/rerank", json={"query": "q", "documents": ["d"]})
        other = client.post("/ui/rerank/1", json={"query": "q", "documents": ["d"]})

    assert answer.status_code == 200
    assert other.status_code == 503


def test_a_compared_model_that_is_not_locked_makes_the_server_unready(tmp_path):
    lock = tmp_path / "model.lock"
    lock.write_text(json.dumps(lock_of([load_backend("embedded")])))
    settings = ServerSettings(compare=(f"local:{tmp_path}/missing",), model_lock=str(lock))
    with TestClient(create_app("embedded", settings=settings)) as client:
        deadline = time.monotonic() + 60
        while client.get("/readyz").json() != {"status": "failed"}:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_without_ui_there_is_no_page():
    client = TestClient(create_app("embedded", settings=ServerSettings(ui=False)))

    assert client.get("/ui").status_code == 404
    assert client.get("/ui/backends").status_code == 404
