"""Each reply of a server that is not one valid score per document is one typed error."""

import gzip
import json
import time
from email.utils import formatdate

import pytest

from rerank_plugins import (
    AuthenticationError,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    InvalidResponse,
)
from rerank_plugins.testing import FakeResponse
from tests.backends.http.remote import DOCUMENTS, EXPECTED, GOOD, QUERY, make, results

HTML = b"<html><head><title>Sign in</title></head><body>corporate proxy</body></html>"
DEEP = b'{"results":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BROKEN = {
    "a bad index": (
        FakeResponse(results(0.5, 0.5) | {"results": [{"index": 7, "score": 1}]}),
        "1 scores",
    ),
    "an error with status 200": (
        FakeResponse({"error": {"message": "out of memory"}}),
        "out of memory",
    ),
    "an infinite score": (
        FakeResponse(b'{"results":[{"index":0,"score":Infinity}]}'),
        "not valid JSON",
    ),
    "an overflowing score": (
        FakeResponse(b'[{"index":0,"score":0},{"index":1,"score":1e999}]'),
        "finite",
    ),
    "false gzip": (FakeResponse(GOOD, headers={"Content-Encoding": "gzip"}), "gzip"),
    "HTML": (
        FakeResponse(HTML, content_type="text/html"),
        "'text/html' instead of JSON; check `base_url`.*Sign in",
    ),
    "HTML that claims to be JSON": (FakeResponse(HTML), "not valid JSON"),
    "JSON of another type": (FakeResponse(GOOD, content_type="text/plain"), "'text/plain' instead"),
    "no body": (FakeResponse(b""), "not valid JSON"),
    "no content": (FakeResponse(b"", 204), "not valid JSON"),
    "not UTF-8": (FakeResponse(b'{"results": "\xff"}'), "not valid JSON"),
    "NaN": (FakeResponse(b'[{"index":0,"score":NaN},{"index":1,"score":0.5}]'), "not valid JSON"),
    "null for NaN": (FakeResponse(results(None, None)), "document 0 is null"),
    "one score too few": (FakeResponse(results(0.5)), "1 scores for 2 documents"),
    "the same document twice": (
        FakeResponse({"results": [{"index": 1, "score": 1}] * 2}),
        "two scores",
    ),
    "too many digits": (FakeResponse(b'{"results": [' + b"9" * 10_000 + b"]}"), "not valid JSON"),
    "truncated JSON": (FakeResponse(json.dumps(GOOD).encode()[:-5]), "not valid JSON"),
    "unknown packing": (FakeResponse(GOOD, headers={"Content-Encoding": "br"}), "packed as 'br'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_replies_are_refused_with_a_reason(fake_server, ask, case):
    fake_server.response, reason = BROKEN[case]

    with pytest.raises(InvalidResponse, match=reason):
        ask(make(fake_server))


HOPELESS = {
    "a bomb": (
        FakeResponse(gzip.compress(bytes(64 << 20)), headers={"Content-Encoding": "gzip"}),
        "more than 33554432 bytes, unpacked",
    ),
    "deep nesting": (
        FakeResponse(DEEP),
        "xinference at http://.*: the response is nested too deeply",
    ),
    "too much": (FakeResponse(b" " * (33 << 20)), "more than 33554432 bytes$"),
}


@pytest.mark.parametrize("case", HOPELESS)
def test_replies_that_are_not_worth_another_try(fake_server, ask, case):
    """They are not retried, but another backend may be asked."""
    fake_server.response, reason = HOPELESS[case]

    with pytest.raises(BackendError, match=reason) as caught:
        ask(make(fake_server))

    assert BackendError is type(caught.value)


@pytest.mark.parametrize("content_type", ["Application/JSON; charset=utf-8", "x/y+json", None])
def test_json_is_known_by_its_type(fake_server, ask, content_type):
    fake_server.response = FakeResponse(GOOD, content_type=content_type)

    assert EXPECTED == ask(make(fake_server))


def test_packed_replies_are_read(fake_server, ask):
    packed = gzip.compress(json.dumps(GOOD).encode())
    fake_server.response = FakeResponse(packed, headers={"Content-Encoding": "gzip"})

    assert EXPECTED == ask(make(fake_server))


def test_echoed_documents_do_not_matter(fake_server, ask):
    """Scores belong to an index, whatever text the server repeats beside it."""
    echo = [{"index": i, "score": EXPECTED[i], "document": {"text": "another"}} for i in (0, 1)]
    fake_server.response = FakeResponse({"results": echo})

    assert EXPECTED == ask(make(fake_server))


XINFERENCE_TEXT = (
    b"Internal Server Error: 1 validation error for RerankRequest\nquery\n  field required"
)
TOO_LARGE = {"error": {"code": 500, "message": "input (3008 tokens) is too large to process."}}
BANNED = {"detail": "Too many failed attempts. IP temporarily banned."}
CLOSED = {"detail": "Remote server 127.0.0.1:34063 closed: 0 bytes read"}
NGINX = b"<html><head><title>502 Bad Gateway</title></head></html>"
STATUSES = {
    "301": (
        FakeResponse(b"", 301, {"Location": "http://other/secret"}),
        BackendRejected,
        "points to other",
    ),
    "304": (FakeResponse(b"", 304), BackendRejected, "answered 304"),
    "307": (
        FakeResponse(b"", 307, {"Location": "/secret"}),
        BackendRejected,
        "points to another path",
    ),
    "400": (
        FakeResponse({"message": "too many tokens"}, 400),
        BackendRejected,
        "'too many tokens'",
    ),
    "401": (FakeResponse(b"", 401), AuthenticationError, "no key was sent: set XINFERENCE_API_KEY"),
    "402": (FakeResponse({"detail": "no balance"}, 402), BackendRejected, "no balance"),
    "403": (FakeResponse({"detail": "no right"}, 403), AuthenticationError, "no right"),
    "404": (
        FakeResponse({"detail": "no model m"}, 404),
        BackendRejected,
        "no model m.*check `base_url`",
    ),
    "405": (
        FakeResponse({"detail": "Method Not Allowed"}, 405),
        BackendRejected,
        "check `base_url`",
    ),
    "408": (FakeResponse(b"", 408), BackendTimeout, "answered 408"),
    "413": (FakeResponse(b"<title>413 Too Large</title>", 413), BackendRejected, "413 Too Large"),
    "422": (
        FakeResponse({"error": "batch size 40 > 32"}, 422),
        BackendRejected,
        "batch size 40 > 32.*got 2 documents",
    ),
    "424": (FakeResponse({"error": "Backend error: NaN"}, 424), BackendError, "NaN"),
    "429": (FakeResponse({"error": "Model is overloaded"}, 429), BackendOverloaded, "overloaded"),
    "429 for a ban": (FakeResponse(BANNED, 429), AuthenticationError, "banned"),
    "498": (FakeResponse({"message": "invalid token"}, 498), AuthenticationError, "invalid token"),
    "500": (FakeResponse(CLOSED, 500), BackendUnavailable, "closed"),
    "500 for a bad field": (
        FakeResponse(XINFERENCE_TEXT, 500, {}, "text/plain"),
        BackendError,
        "field",
    ),
    "500 for a long text": (FakeResponse(TOO_LARGE, 500), BackendError, "too large to process"),
    "501": (FakeResponse({"error": "start with --rerank"}, 501), BackendRejected, "--rerank"),
    "502": (FakeResponse(NGINX, 502, {}, "text/html"), BackendUnavailable, "'502 Bad Gateway'"),
    "503": (FakeResponse({"detail": "Model is loading"}, 503), BackendOverloaded, "loading"),
    "504": (FakeResponse(b"", 504), BackendTimeout, "answered 504"),
    "529": (FakeResponse(b"", 529), BackendUnavailable, "answered 529"),
    "599": (FakeResponse(DEEP, 599), BackendUnavailable, "answered 599"),
}


@pytest.mark.parametrize("case", STATUSES)
def test_each_status_is_one_error(fake_server, ask, case, monkeypatch):
    monkeypatch.delenv("XINFERENCE_API_KEY", raising=False)
    fake_server.response, kind, reason = STATUSES[case]

    with pytest.raises(BackendError, match=reason) as caught:
        ask(make(fake_server))

    assert kind is type(caught.value)
    assert f"xinference at {fake_server.url}/v1/rerank answered {case[:3]}" in str(caught.value)
    assert "secret" not in str(caught.value)
    if isinstance(caught.value, BackendRejected):
        assert int(case[:3]) == caught.value.status_code
    tries = 2 if case == "413" else 1  # which is tried with half of the request
    assert tries == len(fake_server.requests)


IN_AN_HOUR = "in an hour"
WAITS = {
    "a date": ({"Retry-After": IN_AN_HOUR}, pytest.approx(3600, abs=300)),
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
def test_the_time_to_wait_is_read(fake_server, case, status):
    headers, expected = WAITS[case]
    if headers.get("Retry-After") == IN_AN_HOUR:  # counted from now, not from the import
        headers = {"Retry-After": formatdate(time.time() + 3600, usegmt=True)}
    fake_server.response = FakeResponse(b"", status, headers)

    with make(fake_server) as backend, pytest.raises(BackendUnavailable) as caught:
        backend.score(QUERY, DOCUMENTS)

    assert expected == caught.value.retry_after
    told = "; try again in " in str(caught.value)
    assert (expected in (None, 0.0)) is not told


def test_the_time_to_wait_is_told(fake_server, ask):
    fake_server.response = FakeResponse(b"", 503, {"Retry-After": "6.2"})

    with pytest.raises(BackendOverloaded, match=r"answered 503; try again in 7 s$"):
        ask(make(fake_server))


def test_messages_are_cut_and_escaped(fake_server, ask):
    fake_server.response = FakeResponse({"detail": "\x1b[31m\x00\u202e" + "x" * 5_000}, 400)

    with pytest.raises(BackendRejected) as caught:
        ask(make(fake_server))

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
def test_no_error_repeats_what_was_asked(fake_server, ask, case, status):
    fake_server.response = FakeResponse(ECHOES[case], status)

    with pytest.raises((BackendRejected, InvalidResponse)) as caught:
        ask(make(fake_server))

    assert "panda" not in str(caught.value)
    assert ("too long" in str(caught.value)) == ("too long" in str(ECHOES[case]))
