"""The backend of an application: loaded once, whoever calls it and whatever it raises."""

import threading
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from rerank_plugins import BackendError, BackendTimeout
from rerank_plugins.server import ServerSettings, create_app
from rerank_plugins.testing import FakeBackend
from tests.support.serving import ready

BODY = {"query": "q", "documents": ["q", "d"]}


class PanicException(BaseException):
    """As pyo3 raises it for a panic in Rust."""


class Raising(FakeBackend):
    """Raises an error when it is loaded."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def describe(self):
        raise self.error


class Hanging(FakeBackend):
    """Hangs while it loads, until it is released."""

    def __init__(self):
        super().__init__()
        self.go_on = threading.Event()
        self.closed = threading.Event()

    def describe(self):
        self.go_on.wait(60)
        return super().describe()

    def close(self):
        self.closed.set()


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def failure(app):
    with TestClient(app) as client:
        wait_until(lambda: app.state.lifecycle.failure is not None)
        assert "failed" == client.get("/readyz").json()["status"]
    return app.state.lifecycle.failure


@pytest.mark.parametrize(
    "error", [PanicException("a panic"), StopIteration(), SystemExit(3)], ids=repr
)
def test_any_error_of_a_load_is_a_failure(error):
    """And no load that goes on for ever."""
    reason = failure(create_app(Raising(error)))

    assert isinstance(reason, BackendError)
    assert type(error).__name__ in str(reason)


def test_a_load_that_hangs_is_a_failure():
    backend = Hanging()
    reason = failure(create_app(backend, settings=ServerSettings(load_seconds=0.05)))
    backend.go_on.set()

    assert isinstance(reason, BackendTimeout)
    assert "had not loaded in 0.05 s; raise `load_seconds`" in str(reason)


def test_an_application_ends_although_its_model_hangs_while_it_loads():
    """The thread stays, and closes the backend when it is done."""
    backend = Hanging()
    with TestClient(create_app(backend)) as client:
        assert "loading" == client.get("/readyz").json()["status"]
    assert not backend.closed.is_set()
    backend.go_on.set()

    assert backend.closed.wait(30)


def test_an_application_starts_again_after_its_end():
    app = create_app(FakeBackend())
    for _ in range(2):
        with TestClient(app) as client:
            ready(client)
            assert 200 == client.post("/v1/rerank", json=BODY).status_code


def mounted_in_fastapi(app):
    outer = FastAPI()
    outer.mount("/r", app)
    return outer


def mounted_in_starlette(app):
    return Starlette(routes=[Mount("/r", app=app)])


def mounted_twice(app):
    """Below two prefixes."""
    outer = FastAPI()
    outer.mount("/r", mounted_in_starlette_below(app))
    return outer


def mounted_in_starlette_below(app):
    return Starlette(routes=[Mount("/", app=app)])


@pytest.mark.parametrize("mount", [mounted_in_fastapi, mounted_in_starlette, mounted_twice])
def test_a_mounted_application_loads_with_its_first_request(mount):
    """Its lifespan never runs."""
    with TestClient(mount(create_app(FakeBackend()))) as client:
        client.base_url = client.base_url.join("/r")
        ready(client)

        assert 200 == client.post("/v1/rerank", json=BODY).status_code


def test_each_request_may_have_a_loop_of_its_own():
    client = TestClient(create_app(FakeBackend()))  # without its context there is no lifespan
    ready(client)

    assert 200 == client.post("/v1/rerank", json=BODY).status_code


def test_a_mounted_application_has_open_probes_and_closed_routes(monkeypatch):
    monkeypatch.setenv("RERANK_API_KEYS", "me:0123456789abcdef0123456789abcdef")
    settings = ServerSettings(api_keys_env="RERANK_API_KEYS")
    with TestClient(mounted_in_fastapi(create_app(FakeBackend(), settings=settings))) as client:
        assert 200 == client.get("/r/livez").status_code
        for path in ("/r/v1/models", "/r/r/livez", "/r/livez/"):
            assert 401 == client.get(path).status_code, path
