"""A Hugging Face hub on loopback: the API that lists a model's files, and the files in parts."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

__all__ = ["COMMIT", "HuggingFaceHub"]

COMMIT = "c" * 40
_API = re.compile(
    r"/api/models/(?P<id>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?"
)
_FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class HuggingFaceHub(ThreadingHTTPServer):
    """Has the models in `folders`, by their ids; all of one commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folders: dict[str, Path] = {}
        self.sent: dict[str, int] = {}
        """How many bytes of each file were sent."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def serving(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[HuggingFaceHub]:
        """Let the client of this process ask this hub, as a mirror in `HF_ENDPOINT`."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", self.url)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        with self:
            threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
            yield self
            self.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: HuggingFaceHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := _API.fullmatch(path):
            self._list(found["id"], found["revision"], is_tree=found["what"] == "tree")
        elif found := _FILE.fullmatch(path):
            self._send_file(found["id"], found["revision"], found["path"])
        else:
            self._reply(404, b"")

    def _folder(self, model: str, revision: str | None) -> Path | None:
        folder = self.server.folders.get(model)
        if folder is None:
            self._reply(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, "main", COMMIT):
            self._reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return folder

    def _list(self, model: str, revision: str | None, *, is_tree: bool) -> None:
        if (folder := self._folder(model, revision)) is not None:
            files = [
                (path.relative_to(folder).as_posix(), path.stat().st_size)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            ]
            tree = [
                {"type": "file", "path": name, "size": size, "oid": COMMIT} for name, size in files
            ]
            siblings = [{"rfilename": name, "size": size} for name, size in files]
            answer = {"id": model, "modelId": model, "sha": COMMIT, "siblings": siblings}
            answer |= {"tags": [], "private": False}
            self._reply(200, json.dumps(tree if is_tree else answer).encode())

    def _send_file(self, model: str, revision: str, name: str) -> None:
        folder = self._folder(model, revision)
        if folder is None:
            return
        if not (folder / name).is_file():
            self._reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = (folder / name).read_bytes()
        about = {
            "ETag": f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        status, body = 200, content
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            status, body = 206, content[start : end + 1]
            about["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
        if self.command == "GET":
            self.server.sent[name] = self.server.sent.get(name, 0) + len(body)
        self._reply(status, body, about)

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""
