"""A stand-in for Elasticsearch and OpenSearch on the loopback interface, for their clients.

It serves the documented wire format of the few calls that the recipes make (index creation and
deletion, `_bulk`, `_refresh`, `_search` with `match`), and finds by a real BM25. It is no server:
its analysis and its scores are not theirs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from rerank_plugins.evaluation.bm25 import bm25

__all__ = ["search_engine"]

_INFO = {
    "elasticsearch": {
        "name": "stand-in",
        "cluster_name": "stand-in",
        "version": {"number": "9.0.0", "build_flavor": "default"},
        "tagline": "You Know, for Search",
    },
    "opensearch": {
        "name": "stand-in",
        "cluster_name": "stand-in",
        "version": {"distribution": "opensearch", "number": "3.0.0"},
        "tagline": "The OpenSearch Project: https://opensearch.org/",
    },
}
_SHARDS = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}


@contextmanager
def search_engine(product: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Serve on a free port; give the URL, and the methods and paths that were asked."""
    asked: list[tuple[str, str]] = []
    handler = type("Handler", (_Handler,), {"product": product, "indices": {}, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    product: str
    indices: dict[str, dict[str, str]]
    asked: list[tuple[str, str]]

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.asked.append((self.command, path))
        status, answer = self._answer(path.strip("/").split("/"), body)
        payload = json.dumps(answer).encode()
        self.send_response(status)
        if self.product == "elasticsearch":  # its client refuses servers that don't say so
            self.send_header("X-Elastic-Product", "Elasticsearch")
            kind = "application/vnd.elasticsearch+json;compatible-with=9"
        else:
            kind = "application/json; charset=UTF-8"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve  # noqa: N815 - the names are http.server's

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def _answer(self, parts: list[str], body: bytes) -> tuple[int, Any]:
        match self.command, parts:
            case "GET", [""]:
                return 200, _INFO[self.product]
            case "POST" | "PUT", ["_bulk"] | [_, "_bulk"]:
                return 200, self._bulk(body)
            case "POST" | "GET", [name, "_search"] if name in self.indices:
                return 200, self._search(name, json.loads(body))
            case "POST", [_, "_refresh"]:
                return 200, {"_shards": _SHARDS}
            case "PUT", [name]:
                self.indices[name] = {}
                acknowledged = {"acknowledged": True, "shards_acknowledged": True, "index": name}
                return 200, acknowledged
            case "DELETE", [name] if self.indices.pop(name, None) is not None:
                return 200, {"acknowledged": True}
        reason = {"type": "index_not_found_exception", "reason": f"no such index [{parts[0]}]"}
        return 404, {"error": {"root_cause": [reason], **reason}, "status": 404}

    def _bulk(self, body: bytes) -> dict[str, Any]:
        lines = [json.loads(line) for line in body.splitlines() if line]
        items = []
        for action, source in zip(lines[::2], lines[1::2], strict=True):
            target = action["index"]
            self.indices[target["_index"]][target["_id"]] = source["text"]
            done = {"_version": 1, "result": "created", "_shards": _SHARDS, "status": 201}
            items.append({"index": {**target, **done}})
        return {"took": 1, "errors": False, "items": items}

    def _search(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        texts = self.indices[name]
        ids = bm25({"q": asked["query"]["match"]["text"]}, texts, depth=asked["size"])["q"]
        hits = [
            {"_index": name, "_id": key, "_score": 1 / rank, "_source": {"text": texts[key]}}
            for rank, key in enumerate(ids, 1)
        ]
        total = {"value": len(hits), "relation": "eq"}
        result = {"total": total, "max_score": 1.0 if hits else None, "hits": hits}
        return {"took": 1, "timed_out": False, "_shards": _SHARDS, "hits": result}
