"""A chain whose models have processes of their own."""

import json
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from starlette.testclient import TestClient

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.backends.local.lockfile import lock_of
from rerank_plugins.server import ServerSettings
from rerank_plugins.server.app import create_app, isolated_app
from rerank_plugins.server.isolation import (
    check_locked_models,
    is_remote,
    isolate,
    model_processes,
)
from rerank_plugins.server.lifecycle import Lifecycle
from rerank_plugins.server.metrics import ServerMetrics
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.process import ModelProcess, ModelRestarting
from rerank_plugins.wrappers.retry import RetryingBackend
from tests.support.doubles import Marked, OwnClient, OwnWrapper, Swapping
from tests.support.monitoring import wait_until
from tests.support.serving import ready

SETTINGS = ServerSettings(watchdog_seconds=7.0)
REMOTE = {"kind": "infinity", "base_url": "http://127.0.0.1:9"}


class Listwise(FakeBackend):
    pointwise = False


class OwnSidecar(FakeBackend):
    """A model that a user runs in a process of their own."""

    is_restarting = False
    killed = False

    @property
    def process(self):
        return self

    def restarting_for(self):
        return 3600.0 if self.is_restarting else 0.0

    def kill(self):
        self.killed = True


def kinds(backend):
    return [part.kind for part in backend.walk()]


@pytest.mark.parametrize("variable", [None, "AWS_REGION", "AWS_DEFAULT_REGION"])
def test_bedrock_is_another_server_wherever_its_region_is_set(monkeypatch, variable):
    """As a model of this machine it would be called, and billed, for a few documents at a time."""
    for each in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(each, raising=False)
    if variable:
        monkeypatch.setenv(variable, "us-west-2")
    chain = load_backend({"backend": {"kind": "bedrock", "model": "amazon.rerank-v1:0"}})

    assert is_remote(chain)
    assert ["bedrock"] == kinds(isolate(chain, SETTINGS))
    assert ("us-west-2" in chain.endpoint) is bool(variable)


def test_a_model_gets_a_process():
    backend = load_backend("embedded")
    isolated = isolate(backend, SETTINGS)

    assert ["process", "embedded"] == kinds(isolated)
    assert [isolated] == model_processes(isolated)
    assert [] == model_processes(backend)


def test_the_callers_chain_does_not_change():
    chain = load_backend({"backend": {"kind": "embedded"}, "cache": {"store": "memory"}})
    before = chain.to_spec(), kinds(chain)
    isolated = isolate(chain, SETTINGS)

    assert before == (chain.to_spec(), kinds(chain))
    assert ["cache", "process", "embedded"] == kinds(isolated)


def test_models_of_a_fallback_chain_share_batches_in_a_process_each():
    chain = load_backend({"backend": REMOTE, "fallback": [{"kind": "embedded"}]})
    isolated = isolate(chain, SETTINGS)

    assert ["fallback", "infinity", "parts", "batching", "process", "embedded"] == kinds(isolated)
    assert is_remote(isolated)


def test_a_users_remote_backend_stays_in_this_process():
    chain = RetryingBackend(OwnClient())

    assert is_remote(chain)
    assert kinds(chain) == kinds(isolate(chain, SETTINGS))


@pytest.mark.parametrize("around", [lambda b: b, RetryingBackend, OwnWrapper])
@pytest.mark.parametrize("make", [OwnSidecar, lambda: ModelProcess(Marked())])
def test_a_model_that_has_its_own_process_gets_no_other(around, make):
    backend = around(make())

    assert kinds(backend) == kinds(isolate(backend, SETTINGS))
    assert 1 == len(model_processes(backend))


@pytest.mark.parametrize(("options", "seconds"), [("", 60), ("?unload_after=9", 660)])
def test_a_call_may_load_the_model_again(options, seconds):
    """Which is no hanging batch, in a process of its own or not."""
    settings = ServerSettings()
    model = RetryingBackend(load_backend(f"local:m{options}"))
    (process,) = model_processes(isolate(model, settings))

    assert seconds == process._batch_seconds
    assert seconds == settings.longest_batch(reloads=model.reloads)


@pytest.mark.parametrize("around", [lambda b: b, RetryingBackend, OwnWrapper])
def test_a_users_own_process_counts_as_one(around):
    sidecar = OwnSidecar()
    lifecycle = Lifecycle(around(sidecar), SETTINGS, ServerMetrics())

    assert "loading" == lifecycle.why_not_ready()
    assert lifecycle.is_alive
    sidecar.is_restarting = True
    assert not lifecycle.is_alive
    lifecycle.kill()
    assert sidecar.killed


@pytest.mark.parametrize("make", [OwnSidecar, lambda: ModelProcess(Marked())])
def test_a_process_that_cannot_check_the_lock_is_refused(make):
    settings = ServerSettings(model_lock="model.lock")

    with pytest.raises(ConfigError, match="`model_lock` can't be checked in the process of <"):
        isolate(OwnWrapper(make()), settings)


def test_restarts_of_a_models_process_are_counted():
    app = isolated_app(Marked(), SETTINGS)
    with model_processes(app.state.lifecycle.backend)[0] as model:
        model.score("q", ["a"])
        with pytest.raises(ModelRestarting):
            model.score("q", ["kill"])
        deadline = time.monotonic() + 30
        while not (restarts := restarts_of(app)):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    assert 1 == restarts


@pytest.mark.slow
def test_a_document_that_keeps_ending_the_process_is_refused():
    app = isolated_app(Marked(), SETTINGS)
    replies = []
    with TestClient(app, raise_server_exceptions=False) as client:
        for _ in range(4):
            ready(client)
            body = {"query": "q", "documents": ["a", "bb", "kill"]}
            replies.append(client.post("/v1/rerank", json=body))
        assert 200 == client.post("/v1/rerank", json={**body, "documents": ["a", "bb"]}).status_code

    assert [503, 503, 422, 422] == [reply.status_code for reply in replies]
    error = replies[-1].json()["error"]
    assert "document_quarantined" == error["type"]
    assert error["message"].startswith("document 2 ended the model's process three times")
    assert 3 == restarts_of(app)


def restarts_of(app):
    return app.state.metrics.registry.get_sample_value("rerank_model_restarts_total")


def test_a_listwise_model_of_a_fallback_chain_gets_whole_requests():
    chain = FallbackBackend([FakeBackend(), Listwise()])
    first, second = isolate(chain, SETTINGS).children

    assert ("batching", "process") == (first.kind, second.kind)


def test_only_models_of_this_process_are_checked_against_the_lock(tmp_path):
    lock = tmp_path / "model.lock"
    lock.write_text(json.dumps(lock_of([load_backend("embedded")])))
    settings = ServerSettings(model_lock=str(lock))
    unknown = load_backend(f"local:{tmp_path}/missing")

    check_locked_models(load_backend({"backend": REMOTE}), settings)
    check_locked_models(OwnClient(), settings)
    check_locked_models(RetryingBackend(load_backend("embedded")), settings)
    check_locked_models(isolate(unknown, settings), settings)
    with pytest.raises(ConfigError, match="there is no folder"):
        check_locked_models(RetryingBackend(unknown), settings)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("make_app", [create_app, isolated_app])
def test_files_that_are_exchanged_between_the_check_and_the_load_are_not_served(
    tmp_path, make_app, back
):
    """Also if the right ones are there again by then; in both kinds of processes."""
    (tmp_path / "weights").write_bytes(b"right")
    (tmp_path / "others").write_bytes(b"wrong")
    backend = Swapping(folder=str(tmp_path), back=back)
    lock = tmp_path / "model.lock"
    lock.write_text(json.dumps(lock_of([backend])))
    app = make_app(backend, settings=ServerSettings(model_lock=str(lock)))
    with TestClient(app) as client:
        wait_until(lambda: app.state.lifecycle.failure is not None)
        status = client.get("/readyz").json()["status"]

    assert "failed" == status
    assert "'weights' was changed while" in str(app.state.lifecycle.failure)
    assert isinstance(app.state.lifecycle.failure, ConfigError)
