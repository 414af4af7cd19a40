"""Counts the calls that one request makes on its way through the full chain of backends.

    python tests/benchmarks/call_census.py [--list]

One `score()` of ten new documents through hooks, cache, circuit breaker, retries and the HTTP
client, after a request that opened the connection. It prints how many Python calls stay in this
package, in how many functions and files, and how often each text was checked. Counts hardly
vary from run to run, where times of microseconds do.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

import rerank_plugins
from rerank_plugins import load_backend

PACKAGE = Path(rerank_plugins.__file__).parent
CHECKS = ("_check_query", "check_texts")
"""What a full check of a request calls once: now, and in version cfb040d."""
QUERY = "which animal eats bamboo?"
DOCUMENTS = [f"animal {i}" for i in range(10)]


class _TEI(BaseHTTPRequestHandler):
    """Scores by length, as Text Embeddings Inference would answer."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        scores = [{"index": i, "score": 1 / len(text)} for i, text in enumerate(request["texts"])]
        body = json.dumps(scores).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def census() -> Counter[tuple[str, str]]:
    """Return how often each (file, function) of the package was called by one request."""
    calls: Counter[tuple[str, str]] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)):
            calls[str(Path(code.co_filename).relative_to(PACKAGE)), code.co_qualname] += 1

    server = ThreadingHTTPServer(("127.0.0.1", 0), _TEI)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    chain = {
        "backend": {"kind": "tei", "base_url": f"http://127.0.0.1:{server.server_address[1]}"},
        "retry": {},
        "breaker": {},
        "cache": {},
        "instrument": {"hooks": ["logging"]},
    }
    with load_backend(chain) as backend:
        backend.score(QUERY, ["a cat", "a dog"])
        sys.setprofile(count)
        try:
            backend.score(QUERY, DOCUMENTS)
        finally:
            sys.setprofile(None)
    server.shutdown()
    server.server_close()
    return calls


def report(calls: Counter[tuple[str, str]]) -> str:
    """Say in one line what was counted."""
    files = {file for file, _ in calls}
    by_name = {name: times for (_, name), times in calls.items()}
    checks = next((by_name[name] for name in CHECKS if name in by_name), 0)
    return (
        f"{calls.total()} calls, {len(calls)} functions, {len(files)} files, "
        f"each text checked {checks} times\n"
    )


if __name__ == "__main__":
    counted = census()
    sys.stdout.write(report(counted))
    if "--list" in sys.argv:
        for (file, function), times in counted.most_common():
            sys.stdout.write(f"{times:4}  {file}  {function}\n")
