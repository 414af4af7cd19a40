"""The internals of uvicorn that the server uses; pyproject.toml bounds its version.

When one of these fails with a new version, read `server/connections.py` and `server/run.py` before
the bound is raised.
"""

import inspect
import re

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from rerank_plugins.server.connections import HTTPConnection
from tests.support.places import ROOT

CONFIG = uvicorn.Config(app=None, log_config=None)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("startup", ["self", "sockets"]),
        ("capture_signals", ["self"]),
        ("handle_exit", ["self", "sig", "frame"]),
    ],
)
def test_the_methods_that_we_override_exist(method, parameters):
    assert parameters == [*inspect.signature(getattr(uvicorn.Server, method)).parameters]


def test_a_connection_is_made_as_uvicorn_makes_its_own():
    theirs = [*inspect.signature(HttpToolsProtocol).parameters]
    ours = inspect.signature(HTTPConnection).parameters.values()

    assert theirs == [each.name for each in ours if each.kind is not each.KEYWORD_ONLY]
    assert callable(HTTPConnection.shutdown)
    assert "connection.shutdown()" in inspect.getsource(uvicorn.Server.shutdown)


def test_the_attributes_that_we_use_exist():
    server = uvicorn.Server(CONFIG)
    state = ServerState()

    assert {False} == {server.force_exit, server.should_exit, server.started}
    assert set() == server.server_state.tasks
    assert (set(), set(), []) == (state.connections, state.tasks, state.default_headers)
    assert {"root_path", "timeout_graceful_shutdown"} <= vars(CONFIG).keys()
    assert "self.loaded_app" in inspect.getsource(uvicorn.Config.load)


def test_the_version_is_bounded():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    assert re.search(r'"uvicorn>=[\d.]+,<[\d.]+"', text)
