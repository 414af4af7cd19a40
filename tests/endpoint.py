"""A real HTTP server in this process that does as it is told: it speaks every dialect, or fails."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from rerank_plugins.testing import FakeBackend

__all__ = ["Answer", "Endpoint", "Received", "score_of", "speak"]

score_of = FakeBackend()._function


@dataclass(frozen=True)
class Received:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    size: int
    """Bytes of the body."""


@dataclass(frozen=True)
class Answer:
    """What to send back: `body` as it is if it is bytes, else as JSON."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = "application/json"

    def send(self, handler: BaseHTTPRequestHandler) -> None:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        handler.send_response_only(self.status)
        if self.content_type is not None:
            handler.send_header("Content-Type", self.content_type)
        for name, value in {"Content-Length": str(len(body)), **self.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


Behaviour = Callable[[Received], Answer] | Callable[[Received], Callable[..., None]] | Answer
"""An answer, or what makes one of a request; it may also return `write(handler)`."""


class Endpoint:
    """A server on loopback; `answer` says what it does, `requests` what it was asked."""

    def __init__(self, answer: Behaviour, *, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[Received] = []
        """Every request, oldest first."""
        self.at_work = 0
        """Requests that are being answered."""
        self.most_at_work = 0
        self.connections = 0
        """Connections accepted so far."""
        self._open: set[socket.socket] = set()
        self._lock = threading.Condition()
        self._server = _Server(self)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # it may have gone by itself
                    connection.shutdown(socket.SHUT_RDWR)
        self.wait_until_idle()

    def wait_until_idle(self, seconds: float = 10.0) -> bool:
        """Return whether every connection ends in time."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._open, seconds)

    def wait_for_requests(self, count: int, seconds: float = 10.0) -> bool:
        """Return whether `count` requests arrive in time."""
        with self._lock:
            return self._lock.wait_for(lambda: len(self.requests) >= count, seconds)

    def _opened(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self._open.add(connection)

    def _closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)
            self._lock.notify_all()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        size = int(handler.headers.get("Content-Length") or 0)
        content = handler.rfile.read(size)
        body = json.loads(content) if content else None
        received = Received(handler.command, handler.path, dict(handler.headers), body, size)
        with self._lock:
            self.requests.append(received)
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
            self._lock.notify_all()
        try:
            answer = self.answer(received) if callable(self.answer) else self.answer
            write = answer.send if isinstance(answer, Answer) else answer
            write(handler)
        finally:
            with self._lock:
                self.at_work -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self.endpoint._opened(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.endpoint._closed(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.server.endpoint._serve(self)  # type: ignore[attr-defined]

    do_GET = do_POST  # noqa: N815  # the name that the base class calls

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def speak(dialect: str, *, score: Callable[[str, str], float] = score_of) -> Behaviour:
    """Return a server of this dialect, as strict as the strictest of its kind."""
    return lambda received: _SPEAKERS[dialect](received.body, score)


def _speaker(
    *,
    documents: str = "documents",
    results: str | None = "results",
    number: str = "relevance_score",
    limit: int | None = None,
    fields: frozenset[str] = frozenset({"model", "query", "documents"}),
    logits: bool = False,
) -> Callable[[Any, Callable[[str, str], float]], Answer]:
    def answer(body: Any, score: Callable[[str, str], float]) -> Answer:
        if body.keys() - fields or None in body.values():
            return Answer({"detail": f"unexpected fields: {sorted(body.keys() - fields)}"}, 400)
        texts = [text["text"] if isinstance(text, dict) else text for text in body[documents]]
        query = body["query"]["text"] if isinstance(body["query"], dict) else body["query"]
        if not texts or not all(texts) or (limit is not None and len(texts) > limit):
            return Answer({"error": f"batch size {len(texts)}", "error_type": "Validation"}, 422)
        raw = logits or body.get("raw_scores") or body.get("use_activation") is False
        items = [
            {"index": index, number: _logit(score(query, text)) if raw else score(query, text)}
            for index, text in enumerate(texts)
        ]
        items.sort(key=lambda item: item[number], reverse=True)
        return Answer(items if results is None else {results: items})

    return answer


def _logit(probability: float) -> float:
    certain = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(certain / (1 - certain))


def _dashscope(body: Any, score: Callable[[str, str], float]) -> Answer:
    if body.keys() - {"model", "input", "parameters"}:
        return Answer({"code": "InvalidParameter", "message": "unexpected fields"}, 400)
    inner = _speaker(limit=500)({"model": body["model"], **body["input"]}, score)
    return Answer({"output": inner.body, "request_id": "1"}, inner.status)


_COHERE = frozenset({"model", "query", "documents"})
_SPEAKERS = {
    "cohere": _speaker(limit=1000),
    "dashscope": _dashscope,
    "infinity": _speaker(limit=2048, fields=_COHERE | {"raw_scores"}),
    "jina": _speaker(),
    "llamacpp": _speaker(logits=True),
    "nim": _speaker(
        documents="passages",
        results="rankings",
        number="logit",
        limit=512,
        fields=frozenset({"model", "query", "passages", "truncate"}),
        logits=True,
    ),
    "siliconflow": _speaker(fields=_COHERE | {"instruction"}),
    "tei": _speaker(
        documents="texts",
        results=None,
        number="score",
        limit=32,
        fields=frozenset({"query", "texts", "truncate", "raw_scores"}),
    ),
    "vllm": _speaker(fields=_COHERE | {"truncate_prompt_tokens", "instruction", "use_activation"}),
    "voyage": _speaker(results="data", limit=1000, fields=_COHERE | {"truncation"}),
    "xinference": _speaker(fields=_COHERE | {"kwargs"}),
}
