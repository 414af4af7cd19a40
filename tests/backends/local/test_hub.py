"""What a hub, a mirror or a proxy in between answers, as errors of ours."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="needs the extra `onnx`")

from rerank_plugins.backends.local.hub import fetch
from rerank_plugins.errors import AuthenticationError, BackendUnavailable, ConfigError

LONGEST = 40
"""Lines of a traceback that a reader still finds the message in."""


class Hub(ThreadingHTTPServer):
    """Answers everything alike."""

    status, body = 200, b""


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(("127.0.0.1", 0), Handler) as server:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "expected", "message"),
    [
        (401, AuthenticationError, "HTTP 401 for the model 'owner/tiny'; set HF_TOKEN"),
        (403, AuthenticationError, "HTTP 403 .* A proxy that blocks the hub"),
        (404, ConfigError, "HTTP 404 .* check the name, and HF_ENDPOINT"),
        (429, BackendUnavailable, "HTTP 429 .* try again later"),
        (500, BackendUnavailable, "HTTP 500 .* a mirror of the hub"),
    ],
)
def test_a_refusal_is_told_with_its_status(
    hub: Hub, status: int, expected: type[Exception], message: str, tmp_path: Path
) -> None:
    hub.status, hub.body = status, b"no"
    with pytest.raises(expected, match=f"127.0.0.1:{hub.server_port} answered {message}") as raised:
        _fetch(tmp_path)

    assert len("".join(traceback.format_exception(raised.value)).splitlines()) < LONGEST


def test_a_page_in_place_of_a_reply_is_told(hub: Hub, tmp_path: Path) -> None:
    hub.body = b"<html>Sign in to the network of this hotel</html>"
    with pytest.raises(BackendUnavailable, match=f"{hub.server_port} may be no hub, or a sign-in"):
        _fetch(tmp_path)


def _fetch(cache: Path) -> None:
    fetch(
        "owner/tiny",
        revision=None,
        cache_folder=str(cache),
        local_files_only=False,
        patterns=["*.json"],
    )
