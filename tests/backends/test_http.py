"""HTTPBackend against a real server on loopback: every dialect, every kind of failure."""

import asyncio
import gc
import gzip
import json
import math
import os
import pickle
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest
from endpoint import Answer, Endpoint, score_of, speak

from rerank_plugins import (
    AuthenticationError,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
    UnsupportedInputError,
    load_backend,
)
from rerank_plugins.backends.dialects import DIALECTS
from rerank_plugins.backends.http import HTTPBackend
from rerank_plugins.testing import BackendContract

QUERY = "what is a panda?"
DOCUMENTS = ["hi", "The giant panda is a bear species endemic to China."]
EXPECTED = [score_of(QUERY, document) for document in DOCUMENTS]
GOOD = {
    "results": [{"index": i, "relevance_score": EXPECTED[i]} for i in (1, 0)],
    "meta": {"warnings": None},
}


def results(*scores):
    return {"results": [{"index": i, "score": score} for i, score in enumerate(scores)]}


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Score in one of the two ways, on a backend that is closed afterwards."""

    def sync(backend, documents=DOCUMENTS):
        with backend:
            return backend.score(QUERY, documents)

    def in_loop(backend, documents=DOCUMENTS):
        async def main():
            async with backend:
                return await backend.ascore(QUERY, documents)

        return asyncio.run(main())

    return sync if request.param == "sync" else in_loop


@pytest.fixture
def endpoint():
    with Endpoint(Answer(GOOD)) as endpoint:
        yield endpoint


def make(endpoint, dialect="xinference", **options):
    if DIALECTS[dialect].needs_model:
        options.setdefault("model", "m")
    return HTTPBackend(endpoint.url, dialect=dialect, **options)


class TestContract(BackendContract):
    """Every dialect keeps the contract, against a server that is strict about its fields."""

    @pytest.fixture(autouse=True, params=sorted(DIALECTS))
    def _server(self, request):
        with Endpoint(speak(request.param)) as endpoint:
            self.dialect, self.endpoint = request.param, endpoint
            yield

    def make_backend(self):
        return make(self.endpoint, self.dialect)

    def test_scores_are_those_of_the_server(self):
        with self.make_backend() as backend:
            expected = [score_of(self.query, document) for document in self.documents]
            if backend.scale == "unknown" or self.dialect not in ("llamacpp", "nim"):
                assert expected == backend.score(self.query, self.documents)
            else:
                self.assert_close(expected, backend.score(self.query, self.documents))


def test_a_spec_string_asks_the_server(endpoint, ask):
    backend = load_backend(f"xinference+{endpoint.url}?model=bge&timeout=5")

    assert EXPECTED == ask(backend)
    received = endpoint.requests[0]
    assert ("POST", "/v1/rerank") == (received.method, received.path)
    assert {"model": "bge", "query": QUERY, "documents": DOCUMENTS} == received.body
    assert "application/json" == received.headers["Content-Type"]
    assert "Authorization" not in received.headers


def test_blank_documents_are_sent_as_one_space(endpoint, ask):
    """Servers refuse "" or encode it in their own ways."""
    endpoint.answer = Answer(results(0.1, 0.2, 0.3))
    ask(make(endpoint), ["", " \n\t", " a "])

    assert [" ", " ", " a "] == endpoint.requests[0].body["documents"]


def test_infinity_gets_documents_within_its_limit(endpoint, ask):
    endpoint.answer = speak("infinity")
    ask(make(endpoint, "infinity"), ["a" * 200_000, "a"])

    assert [122_880, 1] == [len(text) for text in endpoint.requests[0].body["documents"]]


def test_text_arrives_as_it_was(endpoint, ask):
    texts = ["大熊猫 🐼", 'quote " and \\', "nul \x00 tab \t", "\u2028 line"]
    endpoint.answer = Answer(results(0.1, 0.2, 0.3, 0.4))
    ask(make(endpoint), texts)

    assert texts == endpoint.requests[0].body["documents"]


def test_logits_become_probabilities_once(endpoint, ask):
    endpoint.answer = Answer(results(0.0, 3.0))
    backend = make(endpoint, "llamacpp")

    assert "probability" == backend.scale
    assert [0.5, pytest.approx(1 / (1 + math.exp(-3)))] == ask(backend)


def test_extreme_logits_do_not_overflow(endpoint, ask):
    endpoint.answer = Answer(results(-1e308, 1e308))

    assert [0.0, 1.0] == ask(make(endpoint, "llamacpp"))


@pytest.mark.parametrize(
    ("dialect", "options", "sent"),
    [
        ("infinity", {}, {"raw_scores": True}),
        ("tei", {}, {"raw_scores": True}),
        ("vllm", {}, {"use_activation": False}),
        ("llamacpp", {}, {}),
        ("tei", {"server_scale": "logit"}, {}),
        ("xinference", {"server_scale": "logit"}, {}),
    ],
)
def test_logits_are_returned_as_they_come(endpoint, ask, dialect, options, sent):
    endpoint.answer = Answer(results(-7.5, 3.0))
    backend = make(endpoint, dialect, scale="logit", **options)

    assert "logit" == backend.scale
    assert [-7.5, 3.0] == ask(backend)
    switches = {"raw_scores", "use_activation"}
    body = endpoint.requests[0].body
    assert sent == {name: value for name, value in body.items() if name in switches}


def test_scores_of_unknown_scale_stay_as_they_are(endpoint, ask):
    endpoint.answer = Answer(results(-7.5, 0.5))
    backend = make(endpoint, "xinference")

    assert "unknown" == backend.scale
    assert [-7.5, 0.5] == ask(backend)


def test_probabilities_are_not_squashed_again(endpoint, ask):
    assert EXPECTED == ask(make(endpoint, "xinference", server_scale="probability"))


def test_probabilities_may_be_off_by_rounding_only(endpoint, ask):
    endpoint.answer = Answer(results(1.0000005, -0.0000005))

    assert [1.0, 0.0] == ask(make(endpoint, "cohere"))


@pytest.mark.parametrize("score", [1.1, -0.1, 4.3])
def test_probabilities_outside_0_to_1_are_refused(endpoint, ask, score):
    endpoint.answer = Answer(results(0.5, score))

    with pytest.raises(InvalidResponse, match=r"document 1 .* set server_scale='logit'"):
        ask(make(endpoint, "cohere"))


def test_documents_are_split_over_the_servers_limit(endpoint, ask):
    documents = [f"panda {number}" if number % 3 else "hi" for number in range(70)]
    endpoint.answer = speak("tei")

    assert [score_of(QUERY, text) for text in documents] == ask(make(endpoint, "tei"), documents)
    assert [6, 32, 32] == sorted(len(received.body["texts"]) for received in endpoint.requests)


def test_max_documents_overrides_the_limit(endpoint, ask):
    endpoint.answer = speak("tei")
    ask(make(endpoint, "tei", max_documents=4), ["hi"] * 10)

    assert [2, 4, 4] == sorted(len(received.body["texts"]) for received in endpoint.requests)


@pytest.mark.parametrize("letter", ["a", "熊", '"', "\x00"])
def test_large_requests_are_split_by_bytes(endpoint, ask, letter):
    """nginx refuses more than one megabyte."""
    endpoint.answer = speak("vllm")
    documents = [letter * 50_000] * 25

    assert 25 == len(ask(make(endpoint, "vllm"), documents))
    assert 1 < len(endpoint.requests)
    assert 1_000_000 >= max(received.size for received in endpoint.requests)


def test_the_parts_are_sent_side_by_side_but_bounded(endpoint, ask):
    answer = speak("tei")

    def slow(received):
        time.sleep(0.05)
        return answer(received)

    endpoint.answer = slow
    ask(make(endpoint, "tei", max_parallel=3), ["hi"] * 320)

    assert 3 == endpoint.most_at_work


def test_score_many_asks_side_by_side(endpoint):
    answer = speak("tei")

    def slow(received):
        time.sleep(0.05)
        return answer(received)

    endpoint.answer = slow
    with make(endpoint, "tei", max_parallel=3) as backend:
        found = backend.score_many([(f"panda {n}", ["panda", str(n)]) for n in range(9)])

    assert [[0.5, 0.5]] * 9 == found
    assert 3 == endpoint.most_at_work


def test_one_failing_part_fails_the_call_at_once(endpoint, ask):
    """All or nothing; the silent parts are not waited for, and no further ones are sent."""

    def answer(received):
        return Answer({"error": "no"}, 424) if "bad" in received.body["texts"] else silent

    endpoint.answer = answer
    backend = make(endpoint, "tei", max_documents=1, max_parallel=3, timeout=60)

    with pytest.raises(BackendRejected):
        ask(backend, ["hi", "bad", *["hi"] * 20])

    assert 4 > len(endpoint.requests)


def test_all_parts_share_one_timeout(endpoint, ask):
    answer = speak("tei")

    def slow(received):
        time.sleep(0.1)
        return answer(received)

    endpoint.answer = slow
    backend = make(endpoint, "tei", max_documents=1, max_parallel=1, timeout=0.35)

    with pytest.raises(BackendTimeout):
        ask(backend, ["hi"] * 1_000)

    assert 10 > len(endpoint.requests)


def test_listwise_requests_are_never_split(endpoint, ask):
    endpoint.answer = speak("cohere")
    backend = make(endpoint, "cohere", listwise=True, max_documents=30)

    assert not backend.cacheable
    assert 30 == len(ask(backend, ["a" * 100_000] * 30))
    assert 1 == len(endpoint.requests)


def test_listwise_requests_beyond_the_limit_are_refused(endpoint, ask):
    backend = make(endpoint, "cohere", listwise=True, max_documents=30)

    with pytest.raises(UnsupportedInputError, match="31 documents"):
        ask(backend, ["a"] * 31)

    assert [] == endpoint.requests


HTML = b"<html><head><title>Sign in</title></head><body>corporate proxy</body></html>"
DEEP = b'{"results":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BROKEN = {
    "a bad index": (
        Answer(results(0.5, 0.5) | {"results": [{"index": 7, "score": 1}]}),
        "1 scores",
    ),
    "a bomb": (
        Answer(gzip.compress(bytes(64 << 20)), headers={"Content-Encoding": "gzip"}),
        "more",
    ),
    "an error with status 200": (Answer({"error": {"message": "out of memory"}}), "out of memory"),
    "an infinite score": (Answer(b'{"results":[{"index":0,"score":Infinity}]}'), "not valid JSON"),
    "an overflowing score": (
        Answer(b'[{"index":0,"score":0},{"index":1,"score":1e999}]'),
        "finite",
    ),
    "deep nesting": (Answer(DEEP), "nested too deeply"),
    "false gzip": (Answer(GOOD, headers={"Content-Encoding": "gzip"}), "gzip"),
    "HTML": (Answer(HTML, content_type="text/html"), "'text/html' instead of JSON.*Sign in"),
    "HTML that claims to be JSON": (Answer(HTML), "not valid JSON"),
    "JSON of another type": (Answer(GOOD, content_type="text/plain"), "'text/plain' instead"),
    "no body": (Answer(b""), "not valid JSON"),
    "no content": (Answer(b"", 204), "not valid JSON"),
    "not UTF-8": (Answer(b'{"results": "\xff"}'), "not valid JSON"),
    "NaN": (Answer(b'[{"index":0,"score":NaN},{"index":1,"score":0.5}]'), "not valid JSON"),
    "null for NaN": (Answer(results(None, None)), "document 0 is null"),
    "one score too few": (Answer(results(0.5)), "1 scores for 2 documents"),
    "the same document twice": (Answer({"results": [{"index": 1, "score": 1}] * 2}), "two scores"),
    "too many digits": (Answer(b'{"results": [' + b"9" * 10_000 + b"]}"), "not valid JSON"),
    "too much": (Answer(b" " * (33 << 20)), "more than 33554432 bytes"),
    "truncated JSON": (Answer(json.dumps(GOOD).encode()[:-5]), "not valid JSON"),
    "unknown packing": (Answer(GOOD, headers={"Content-Encoding": "br"}), "packed as 'br'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_replies_are_refused_with_a_reason(endpoint, ask, case):
    endpoint.answer, reason = BROKEN[case]

    with pytest.raises(InvalidResponse, match=reason):
        ask(make(endpoint))


@pytest.mark.parametrize("content_type", ["Application/JSON; charset=utf-8", "x/y+json", None])
def test_json_is_known_by_its_type(endpoint, ask, content_type):
    endpoint.answer = Answer(GOOD, content_type=content_type)

    assert EXPECTED == ask(make(endpoint))


def test_packed_replies_are_read(endpoint, ask):
    packed = gzip.compress(json.dumps(GOOD).encode())
    endpoint.answer = Answer(packed, headers={"Content-Encoding": "gzip"})

    assert EXPECTED == ask(make(endpoint))


def test_echoed_documents_do_not_matter(endpoint, ask):
    """Scores belong to an index, whatever text the server repeats beside it."""
    echo = [{"index": i, "score": EXPECTED[i], "document": {"text": "another"}} for i in (0, 1)]
    endpoint.answer = Answer({"results": echo})

    assert EXPECTED == ask(make(endpoint))


XINFERENCE_TEXT = (
    b"Internal Server Error: 1 validation error for RerankRequest\nquery\n  field required"
)
TOO_LARGE = {"error": {"code": 500, "message": "input (3008 tokens) is too large to process."}}
BANNED = {"detail": "Too many failed attempts. IP temporarily banned."}
CLOSED = {"detail": "Remote server 127.0.0.1:34063 closed: 0 bytes read"}
NGINX = b"<html><head><title>502 Bad Gateway</title></head></html>"
STATUSES = {
    "301": (
        Answer(b"", 301, {"Location": "http://other/secret"}),
        BackendRejected,
        "points to other",
    ),
    "304": (Answer(b"", 304), BackendRejected, "answered 304"),
    "307": (Answer(b"", 307, {"Location": "/secret"}), BackendRejected, "points to another path"),
    "400": (Answer({"message": "too many tokens"}, 400), BackendRejected, "'too many tokens'"),
    "401": (Answer(b"", 401), AuthenticationError, "no key was sent: set XINFERENCE_API_KEY"),
    "402": (Answer({"detail": "no balance"}, 402), BackendRejected, "no balance"),
    "403": (Answer({"detail": "no right"}, 403), AuthenticationError, "no right"),
    "404": (Answer({"detail": "no model m"}, 404), BackendRejected, "no model m.*check `base_url`"),
    "405": (Answer({"detail": "Method Not Allowed"}, 405), BackendRejected, "check `base_url`"),
    "408": (Answer(b"", 408), BackendTimeout, "answered 408"),
    "413": (Answer(b"<title>413 Too Large</title>", 413), BackendRejected, "413 Too Large"),
    "422": (Answer({"error": "batch size 40 > 32"}, 422), BackendRejected, "batch size 40 > 32"),
    "424": (Answer({"error": "Backend error: NaN"}, 424), BackendRejected, "NaN"),
    "429": (Answer({"error": "Model is overloaded"}, 429), BackendOverloaded, "overloaded"),
    "429 for a ban": (Answer(BANNED, 429), AuthenticationError, "banned"),
    "498": (Answer({"message": "invalid token"}, 498), AuthenticationError, "invalid token"),
    "500": (Answer(CLOSED, 500), BackendUnavailable, "closed"),
    "500 for a bad field": (
        Answer(XINFERENCE_TEXT, 500, {}, "text/plain"),
        BackendRejected,
        "field",
    ),
    "500 for a long text": (Answer(TOO_LARGE, 500), BackendRejected, "too large to process"),
    "501": (Answer({"error": "start with --rerank"}, 501), BackendRejected, "--rerank"),
    "502": (Answer(NGINX, 502, {}, "text/html"), BackendUnavailable, "'502 Bad Gateway'"),
    "503": (Answer({"detail": "Model is loading"}, 503), BackendOverloaded, "loading"),
    "504": (Answer(b"", 504), BackendTimeout, "answered 504"),
    "529": (Answer(b"", 529), BackendUnavailable, "answered 529"),
    "599": (Answer(DEEP, 599), BackendUnavailable, "answered 599"),
}


@pytest.mark.parametrize("case", STATUSES)
def test_each_status_is_one_error(endpoint, ask, case, monkeypatch):
    monkeypatch.delenv("XINFERENCE_API_KEY", raising=False)
    endpoint.answer, kind, reason = STATUSES[case]

    with pytest.raises(BackendError, match=reason) as caught:
        ask(make(endpoint))

    assert kind is type(caught.value)
    assert f"xinference at {endpoint.url}/v1/rerank answered {case[:3]}" in str(caught.value)
    assert "secret" not in str(caught.value)
    if isinstance(caught.value, BackendRejected):
        assert int(case[:3]) == caught.value.status_code
    assert 1 == len(endpoint.requests)


SOON = formatdate(time.time() + 3600, usegmt=True)
WAITS = {
    "a date": ({"Retry-After": SOON}, pytest.approx(3600, abs=300)),
    "a past date": ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    "a year": ({"Retry-After": "31536000"}, 31_536_000.0),
    "infinite": ({"Retry-After": "inf"}, None),
    "milliseconds": ({"Retry-After-Ms": "1500", "Retry-After": "9"}, 1.5),
    "negative": ({"Retry-After": "-5"}, None),
    "none": ({}, None),
    "nonsense": ({"Retry-After": "soon"}, None),
    "seconds": ({"Retry-After": "30"}, 30.0),
}


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("case", WAITS)
def test_the_time_to_wait_is_read(endpoint, case, status):
    headers, expected = WAITS[case]
    endpoint.answer = Answer(b"", status, headers)

    with make(endpoint) as backend, pytest.raises(BackendUnavailable) as caught:
        backend.score(QUERY, DOCUMENTS)

    assert expected == caught.value.retry_after


def test_messages_are_cut_and_escaped(endpoint, ask):
    endpoint.answer = Answer({"detail": "\x1b[31m\x00\u202e" + "x" * 5_000}, 400)

    with pytest.raises(BackendRejected) as caught:
        ask(make(endpoint))

    said = str(caught.value).partition("answered 400: ")[2]
    assert said.isprintable()
    assert 202 == len(said)


ECHOES = {
    "FastAPI": {"detail": [{"loc": ["body", "documents"], "msg": "too long", "input": DOCUMENTS}]},
    "FastAPI as text": {"detail": f"[{{'msg': 'too long', 'input': {DOCUMENTS!r}}}]"},
    "plain": {"detail": f"can't rank {DOCUMENTS[1]} for {QUERY}"},
    "pydantic": {"detail": f"documents: too long [input_value={DOCUMENTS!r}, input_type=list]"},
    "with other spaces": {"detail": "can't rank " + DOCUMENTS[1].replace(" ", "\n  ")},
}


@pytest.mark.parametrize("status", [200, 422])
@pytest.mark.parametrize("case", ECHOES)
def test_no_error_repeats_what_was_asked(endpoint, ask, case, status):
    endpoint.answer = Answer(ECHOES[case], status)

    with pytest.raises((BackendRejected, InvalidResponse)) as caught:
        ask(make(endpoint))

    assert "panda" not in str(caught.value)
    assert ("too long" in str(caught.value)) == ("too long" in str(ECHOES[case]))


def silent(handler):
    """Answer nothing until the client hangs up."""
    handler.connection.recv(1)
    handler.close_connection = True


def hang_up(handler):
    handler.close_connection = True


def reset(handler):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def cut(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    handler.wfile.write(b'Content-Length: 100\r\n\r\n{"results":')
    handler.close_connection = True


def no_http(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    handler.close_connection = True


def dripping(start):
    """Send something every 10 ms, so that no single read ever waits for long."""

    def write(handler):
        handler.wfile.write(start)
        for _ in range(10_000):
            time.sleep(0.01)
            handler.wfile.write(b" " if start.endswith(b"\r\n\r\n") else b"X-More: 1\r\n")

    return write


FAULTS = {
    "a dripping body": (
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
        BackendTimeout,
        "stage: total",
    ),
    "a dripping head": (dripping(b"HTTP/1.1 200 OK\r\n"), BackendTimeout, "stage: read"),
    "a reset": (reset, BackendUnavailable, "no connection"),
    "a reply cut short": (cut, BackendUnavailable, "no connection"),
    "a server that hangs up": (hang_up, BackendUnavailable, "disconnected"),
    "another protocol": (no_http, InvalidResponse, "not HTTP"),
    "silence": (silent, BackendTimeout, "stage: read"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_broken_connections_are_one_error(endpoint, ask, case):
    write, kind, reason = FAULTS[case]
    endpoint.answer = lambda received: write

    with pytest.raises(BackendError, match=reason) as caught:
        ask(make(endpoint, timeout=0.3))

    assert kind is type(caught.value)
    assert endpoint.wait_until_idle()


def test_endless_headers_end(endpoint, ask):
    def write(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-More: 1\r\n" * 100_000)

    endpoint.answer = lambda received: write

    with pytest.raises((InvalidResponse, BackendUnavailable)):
        ask(make(endpoint, timeout=60))


def test_nobody_listening_is_unavailable(ask):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(BackendUnavailable, match=f"127.0.0.1:{port}: no connection") as caught:
        ask(HTTPBackend(f"http://127.0.0.1:{port}", dialect="tei"))

    assert BackendUnavailable is type(caught.value)


def test_no_such_host_is_unavailable(ask):
    with pytest.raises(BackendUnavailable, match="no connection"):
        ask(HTTPBackend("http://rerank.invalid", dialect="tei"))


def test_a_server_that_does_not_accept_times_out(ask):
    """Its queue of connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(address)

        backend = HTTPBackend(f"http://127.0.0.1:{address[1]}", dialect="tei", connect_timeout=0.2)
        with pytest.raises(BackendTimeout, match=r"no connection in 0.2 s \(stage: connect\)"):
            ask(backend)

        for other in waiting:
            other.close()


def test_a_server_without_encryption_is_rejected(endpoint, ask):
    """Another try would fail alike."""
    url = endpoint.url.replace("http", "https")

    with pytest.raises(BackendRejected, match="no trusted encryption"):
        ask(HTTPBackend(url, dialect="tei"))


@pytest.mark.parametrize("content", [None, "nothing"])
def test_unreadable_certificates_are_a_config_error(ask, tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError, match="can't read certificates"):
        ask(HTTPBackend("https://localhost", dialect="tei", verify=str(path)))


def test_cookies_are_not_kept(endpoint):
    endpoint.answer = Answer(GOOD, headers={"Set-Cookie": "session=1; Path=/"})
    with make(endpoint) as backend:
        backend.score(QUERY, DOCUMENTS)
        backend.score(QUERY, DOCUMENTS)

    assert "Cookie" not in endpoint.requests[1].headers


def test_the_proxy_of_the_environment_is_used(endpoint, ask, monkeypatch):
    """And it keeps the deadline too."""
    monkeypatch.setenv("HTTP_PROXY", endpoint.url)
    backend = HTTPBackend("http://rerank.example", dialect="xinference", model="m", timeout=0.3)

    assert EXPECTED == ask(backend)
    assert "http://rerank.example/v1/rerank" == endpoint.requests[0].path
    endpoint.answer = lambda received: dripping(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(BackendTimeout):
        ask(backend)


def test_an_unusable_proxy_is_a_config_error(endpoint, ask, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "ftp://user:secret@proxy")

    with pytest.raises(ConfigError, match="proxy") as caught:
        ask(make(endpoint))

    assert "secret" not in str(caught.value)


SECRET = "sk-very-secret-key"  # made up


@pytest.fixture
def _no_keys(monkeypatch):
    for dialect in DIALECTS.values():
        for variable in dialect.key_variables:
            monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("_no_keys")
@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_the_usual_variable_holds_the_key(endpoint, monkeypatch, dialect):
    """It is read at each request."""
    with make(endpoint, dialect) as backend:
        for key in ("one", "two"):
            monkeypatch.setenv(DIALECTS[dialect].key_variables[0], f" {key}\n")
            backend.score(QUERY, DOCUMENTS)

    sent = [received.headers["Authorization"] for received in endpoint.requests]
    assert ["Bearer one", "Bearer two"] == sent


@pytest.mark.usefixtures("_no_keys")
def test_a_named_variable_wins(endpoint, ask, monkeypatch):
    monkeypatch.setenv("XINFERENCE_API_KEY", "usual")
    monkeypatch.setenv("TEAM_KEY", SECRET)
    ask(make(endpoint, api_key_env="TEAM_KEY"))

    assert f"Bearer {SECRET}" == endpoint.requests[0].headers["Authorization"]


def test_a_named_variable_must_be_set(endpoint, ask, monkeypatch):
    monkeypatch.delenv("TEAM_KEY", raising=False)

    with pytest.raises(ConfigError, match="'TEAM_KEY'"):
        ask(make(endpoint, api_key_env="TEAM_KEY"))

    assert [] == endpoint.requests


@pytest.mark.parametrize("key", [f"{SECRET}\r\nX-Evil: 1", f"{SECRET}ü", f"{SECRET}\x00"])
def test_keys_that_no_header_can_hold_are_refused(endpoint, ask, key):
    with pytest.raises(ConfigError) as caught:
        ask(make(endpoint, api_key=key))

    assert SECRET not in str(caught.value)
    assert [] == endpoint.requests


def test_a_literal_key_is_sent_and_never_told(endpoint, ask):
    backend = make(endpoint, api_key=SECRET)
    ask(backend)

    assert f"Bearer {SECRET}" == endpoint.requests[0].headers["Authorization"]
    for told in (repr(backend), backend.name, backend.describe()):
        assert SECRET not in str(told)
    for write in (backend.to_spec, lambda: pickle.dumps(backend)):
        with pytest.raises(ConfigError, match="api_key_env") as caught:
            write()
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("status", [200, 400, 401])
def test_a_key_that_the_server_repeats_is_not_told(endpoint, ask, status):
    endpoint.answer = Answer({"error": {"message": f"the key {SECRET} is wrong"}}, status)

    with pytest.raises(BackendError, match=r"the key \[key\] is wrong") as caught:
        ask(make(endpoint, api_key=SECRET))

    assert SECRET not in str(caught.value)


def test_a_refused_key_is_told_by_its_variable(endpoint, ask, monkeypatch):
    monkeypatch.setenv("TEAM_KEY", SECRET)
    endpoint.answer = Answer({"detail": "API key has expired"}, 401)

    with pytest.raises(AuthenticationError, match=r"expired.*environment variable TEAM_KEY"):
        ask(make(endpoint, api_key_env="TEAM_KEY"))


WRONG = {
    "a model is missing": ({"dialect": "xinference", "model": None}, "needs `model`"),
    "a URL is missing": ({"base_url": None}, "needs `base_url`"),
    "both keys": ({"api_key": "a", "api_key_env": "B"}, "either `api_key` or `api_key_env`"),
    "no instruction here": ({"instruction": "x"}, "these can: dashscope, siliconflow, vllm"),
    "no logits from here": ({"dialect": "cohere", "scale": "logit"}, "infinity, tei, vllm"),
    "no parallel requests": ({"max_parallel": 0}, "`max_parallel` must be at least 1"),
    "no such dialect": ({"dialect": "xinfrence"}, "did you mean 'xinference'"),
    "no time": ({"timeout": 0}, "`timeout` must be"),
    "no time to connect": ({"connect_timeout": math.nan}, "`connect_timeout` must be"),
    "not a URL": ({"base_url": "gpu:9997"}, "`base_url` must be like"),
    "zero documents": ({"max_documents": 0}, "`max_documents` must be at least 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_refused_when_the_backend_is_built(case):
    options, reason = WRONG[case]
    usual = {"base_url": "http://gpu", "dialect": "tei", "model": "m"}

    with pytest.raises(ConfigError, match=reason):
        HTTPBackend(**usual | options)


@pytest.mark.parametrize("name", [name for name in DIALECTS if DIALECTS[name].base_url])
def test_vendors_need_no_url(name):
    backend = load_backend(f"{name}:some-model")

    assert DIALECTS[name].base_url in backend.name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"api_key_env": "TEAM_KEY", "timeout": 3.0, "connect_timeout": 1.0, "max_documents": 7},
        {"instruction": "find answers", "listwise": True, "max_parallel": 2, "verify": False},
        {"scale": "logit", "server_scale": "logit"},
    ],
)
def test_a_backend_survives_its_spec_and_pickle(endpoint, options):
    backend = make(endpoint, **options)
    spec = backend.to_spec()

    assert {"kind": "xinference", "base_url": endpoint.url, "model": "m", **options} == spec
    for copy in (load_backend(spec), pickle.loads(pickle.dumps(backend))):
        assert spec == copy.to_spec()
        assert backend.describe() == copy.describe()


def test_the_name_tells_what_makes_the_scores(endpoint):
    names = {
        make(endpoint, **options).name
        for options in (
            {},
            {"model": "other"},
            {"instruction": "x"},
            {"server_scale": "logit"},
            {"server_scale": "logit", "scale": "logit"},
        )
    }

    assert 5 == len(names)
    assert make(endpoint, timeout=3).name == make(endpoint, max_parallel=1).name


def test_describe_sends_nothing(endpoint):
    assert "m" == make(endpoint).describe()["model"]
    assert [] == endpoint.requests


def test_connections_are_used_again(endpoint):
    with make(endpoint) as backend:
        for _ in range(5):
            backend.score(QUERY, DOCUMENTS)
    assert 1 == endpoint.connections

    async def main():
        async with make(endpoint) as backend:
            for _ in range(5):
                await backend.ascore(QUERY, DOCUMENTS)

    asyncio.run(main())
    assert 2 == endpoint.connections


def test_one_backend_serves_several_loops_and_leaves_no_socket(endpoint):
    """Also if nobody closes it: a socket left open would be a warning, which fails tests."""
    backend = make(endpoint)
    for _ in range(3):
        assert EXPECTED == asyncio.run(backend.ascore(QUERY, DOCUMENTS))
        assert endpoint.wait_until_idle()
    gc.collect()


def test_loops_in_several_threads_keep_apart(endpoint):
    backend = make(endpoint)

    async def main():
        return await asyncio.gather(*[backend.ascore(QUERY, DOCUMENTS) for _ in range(5)])

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: asyncio.run(main()), range(8)):
            assert [EXPECTED] * 5 == found


def test_a_loop_that_was_closed_by_hand_is_forgotten(endpoint):
    """Nothing tells us when such a loop ends; its connections go with its client."""
    backend = make(endpoint)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(backend.ascore(QUERY, DOCUMENTS))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()

    assert EXPECTED == asyncio.run(backend.ascore(QUERY, DOCUMENTS))


def test_a_dropped_backend_closes_its_connections(endpoint):
    backend = make(endpoint)
    backend.score(QUERY, DOCUMENTS)
    del backend
    gc.collect()

    assert endpoint.wait_until_idle()


async def test_aclose_closes_everything(endpoint):
    backend = make(endpoint)
    for _ in range(2):  # it can be used again
        await backend.ascore(QUERY, DOCUMENTS)
        backend.score(QUERY, DOCUMENTS)
        await backend.aclose()

        assert await asyncio.to_thread(endpoint.wait_until_idle)


def test_closing_waits_for_the_calls_of_other_threads(endpoint):
    backend = make(endpoint)
    done = threading.Event()

    def work():
        while not done.is_set():
            assert EXPECTED == backend.score(QUERY, DOCUMENTS)

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work) for _ in range(4)]
        for _ in range(50):
            backend.close()
            time.sleep(0.002)
        done.set()
        for future in futures:
            future.result()
    backend.close()

    assert endpoint.wait_until_idle()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_its_own_connections(endpoint):
    with make(endpoint) as backend:
        backend.score(QUERY, DOCUMENTS)
        child = os.fork()
        if child == 0:
            try:
                right = all(backend.score(QUERY, DOCUMENTS) == EXPECTED for _ in range(20))
                os._exit(0 if right else 1)
            finally:
                os._exit(2)
        for _ in range(20):
            assert EXPECTED == backend.score(QUERY, DOCUMENTS)

        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert 2 == endpoint.connections


@pytest.mark.parametrize("count", [2, 200])
async def test_a_cancelled_call_leaves_nothing(endpoint, count):
    endpoint.answer = lambda received: silent
    async with make(endpoint, "tei", timeout=60) as backend:
        call = asyncio.create_task(backend.ascore(QUERY, ["panda"] * count))
        assert await asyncio.to_thread(endpoint.wait_for_requests, min(4, count // 32 or 1))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert await asyncio.to_thread(endpoint.wait_until_idle)
        assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_many_cancelled_calls_leave_a_working_backend(endpoint):
    answer = endpoint.answer

    def slow(received):
        time.sleep(0.02)
        return answer

    endpoint.answer = slow
    async with make(endpoint) as backend:
        for delay in range(60):
            call = asyncio.create_task(backend.ascore(QUERY, DOCUMENTS))
            await asyncio.sleep(delay / 2_000)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

        calls = [backend.ascore(QUERY, DOCUMENTS) for _ in range(20)]
        assert [EXPECTED] * 20 == await asyncio.gather(*calls)


async def test_other_work_goes_on_during_a_call(endpoint):
    """The event loop is not blocked."""
    turns = 0

    def slow(received):
        while turns < 10:  # ends only because the loop turns
            time.sleep(0.005)
        return Answer(GOOD)

    endpoint.answer = slow
    async with make(endpoint) as backend:
        call = asyncio.create_task(backend.ascore(QUERY, DOCUMENTS))
        while not call.done():
            turns += 1
            await asyncio.sleep(0.005)

        assert EXPECTED == call.result()
