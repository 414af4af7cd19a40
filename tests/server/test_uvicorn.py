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

from tests.support.places import ROOT

CONFIG = uvicorn.Config(app=None, log_config=None)


@pytest.mark.parametrize(
    ("owner", "method", "parameters"),
    [
        (HttpToolsProtocol, "connection_made", ["self", "transport"]),
        (HttpToolsProtocol, "connection_lost", ["self", "exc"]),
        (HttpToolsProtocol, "data_received", ["self", "data"]),
        (HttpToolsProtocol, "send_400_response", ["self", "msg"]),
        (HttpToolsProtocol, "on_message_begin", ["self"]),
        (HttpToolsProtocol, "on_headers_complete", ["self"]),
        (HttpToolsProtocol, "on_message_complete", ["self"]),
        (uvicorn.Server, "startup", ["self", "sockets"]),
        (uvicorn.Server, "capture_signals", ["self"]),
        (uvicorn.Server, "handle_exit", ["self", "sig", "frame"]),
    ],
)
def test_the_methods_that_we_override_exist(owner, method, parameters):
    assert parameters == [*inspect.signature(getattr(owner, method)).parameters]


async def test_the_attributes_that_we_use_exist():
    server = uvicorn.Server(CONFIG)
    protocol = HttpToolsProtocol(CONFIG, ServerState(), app_state={})

    assert {False} == {server.force_exit, server.should_exit, server.started}
    assert set() == server.server_state.tasks
    assert {"connections", "loop", "scope", "transport"} <= vars(protocol).keys()
    assert "timeout_graceful_shutdown" in vars(CONFIG)


def test_the_version_is_bounded():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    assert re.search(r'"uvicorn>=[\d.]+,<[\d.]+"', text)
