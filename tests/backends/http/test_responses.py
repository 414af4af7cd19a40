"""Each response that is not one valid score per document raises one typed error."""

import contextlib
import gc
import gzip
import json
import math
import time
import tracemalloc
from email.utils import formatdate

import pytest

from rerank_plugins import (
    AuthenticationError,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
)
from rerank_plugins.testing import FakeResponse, serve_dialect
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
        "holds Infinity, which is no score",
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
    "NaN": (
        FakeResponse(b'[{"index":0,"score":NaN},{"index":1,"score":0.5}]'),
        "holds NaN, .* let the server compute in float32",
    ),
    "minus infinity": (FakeResponse(b'[{"index":0,"score":-Infinity}]'), "holds -Infinity"),
    "null for NaN": (FakeResponse(results(None, None)), "document 0 is null, .* for NaN"),
    "one score too few": (FakeResponse(results(0.5)), "1 scores for 2 documents"),
    "the same document twice": (
        FakeResponse({"results": [{"index": 1, "score": 1}] * 2}),
        "two scores",
    ),
    "too many digits": (FakeResponse(b'{"results": [' + b"9" * 10_000 + b"]}"), "not valid JSON"),
    "truncated JSON": (FakeResponse(json.dumps(GOOD).encode()[:-5]), "not valid JSON"),
    "unknown packing": (FakeResponse(GOOD, headers={"Content-Encoding": "br"}), "packed as br"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_replies_are_refused_with_a_reason(fake_server, ask, case):
    fake_server.response, reason = BROKEN[case]

    with pytest.raises(InvalidResponse, match=reason):
        ask(make(fake_server))


HOPELESS = {
    "a bomb": (
        FakeResponse(gzip.compress(bytes(64 << 20)), headers={"Content-Encoding": "gzip"}),
        r"more than \d{5} bytes, unpacked$",
    ),
    "deep nesting": (FakeResponse(DEEP), r"more than \d{5} bytes"),
    "many values": (FakeResponse(b"[" + b"[]," * 9000 + b"[]]"), "more than 1536 values"),
    "too much": (FakeResponse(b" " * (33 << 20)), r"more than \d{5} bytes$"),
}


@pytest.mark.parametrize("case", HOPELESS)
def test_some_invalid_responses_are_not_retried(fake_server, ask, case):
    """They are not retried, but another backend may be asked."""
    fake_server.response, reason = HOPELESS[case]

    with pytest.raises(BackendError, match=reason) as caught:
        ask(make(fake_server))

    assert BackendError is type(caught.value)


@pytest.mark.parametrize("content_type", ["Application/JSON; charset=utf-8", "x/y+json", None])
def test_json_is_recognised_by_its_content_type(fake_server, ask, content_type):
    fake_server.response = FakeResponse(GOOD, content_type=content_type)

    assert EXPECTED == ask(make(fake_server))


def test_compressed_responses_are_read(fake_server, ask):
    packed = gzip.compress(json.dumps(GOOD).encode())
    fake_server.response = FakeResponse(packed, headers={"Content-Encoding": "gzip"})

    assert EXPECTED == ask(make(fake_server))


@pytest.mark.parametrize("missing", [1, 4, 8, 20])
def test_a_packed_response_that_is_cut_off_is_no_response(fake_server, ask, missing):
    """Also where all of the JSON is there: its checksum is not."""
    packed = gzip.compress(json.dumps(GOOD).encode())[:-missing]
    fake_server.response = FakeResponse(packed, headers={"Content-Encoding": "gzip"})
    with pytest.raises(BackendUnavailable, match="gzip"):
        ask(make(fake_server))


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
        "points to 'other'",
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
def test_retry_after_is_read(fake_server, case, status):
    headers, expected = WAITS[case]
    if headers.get("Retry-After") == IN_AN_HOUR:  # counted from now, not from the import
        headers = {"Retry-After": formatdate(time.time() + 3600, usegmt=True)}
    fake_server.response = FakeResponse(b"", status, headers)

    with make(fake_server) as backend, pytest.raises(BackendUnavailable) as caught:
        backend.score(QUERY, DOCUMENTS)

    assert expected == caught.value.retry_after
    says_when = "; try again in " in str(caught.value)
    assert (expected in (None, 0.0)) is not says_when


def test_errors_say_how_long_to_wait(fake_server, ask):
    fake_server.response = FakeResponse(b"", 503, {"Retry-After": "6.2"})

    with pytest.raises(BackendOverloaded, match=r"answered 503; try again in 7 s$"):
        ask(make(fake_server))


def test_messages_are_cut_and_escaped(fake_server, ask):
    fake_server.response = FakeResponse({"detail": "\x1b[31m\x00\u202e" + "x" * 5_000}, 400)

    with pytest.raises(BackendRejected) as caught:
        ask(make(fake_server))

    message = str(caught.value).partition("answered 400: ")[2]
    assert message.isprintable()
    assert 202 == len(message)


ECHOES = {
    "FastAPI": {"detail": [{"loc": ["body", "documents"], "msg": "too long", "input": DOCUMENTS}]},
    "FastAPI as text": {"detail": f"[{{'msg': 'too long', 'input': {DOCUMENTS!r}}}]"},
    "plain": {"detail": f"can't rank {DOCUMENTS[1]} for {QUERY}"},
    "pydantic": {"detail": f"documents: too long [input_value={DOCUMENTS!r}, input_type=list]"},
    "with other spaces": {"detail": "can't rank " + DOCUMENTS[1].replace(" ", "\n  ")},
}


@pytest.mark.parametrize("status", [200, 422])
@pytest.mark.parametrize("case", ECHOES)
def test_no_error_repeats_the_query_or_a_document(fake_server, ask, case, status):
    fake_server.response = FakeResponse(ECHOES[case], status)

    with pytest.raises((BackendRejected, InvalidResponse)) as caught:
        ask(make(fake_server))

    assert "panda" not in str(caught.value)
    assert ("too long" in str(caught.value)) == ("too long" in str(ECHOES[case]))


def peak(function):
    """Return the memory that a function needs at most, in bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


PACKED = {"Content-Encoding": "gzip"}


def in_chunks(size, count):
    """Send a body in chunks of this size."""

    def write(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n%s\r\n" % (size, b" " * size)
        with contextlib.suppress(OSError):  # the client hangs up
            for _ in range(count // 1000):
                handler.wfile.write(chunk * 1000)

    return lambda received: write


LARGE = {
    "a bomb": FakeResponse(gzip.compress(b"[" + b"[]," * 10_000_000), headers=PACKED),
    "a bomb for an error": FakeResponse(gzip.compress(b"<title>" * 4_000_000), 500, PACKED),
    "a bomb in a bomb": FakeResponse(
        gzip.compress(gzip.compress(bytes(30_000_000))), headers={"Content-Encoding": "gzip, gzip"}
    ),
    "a page": FakeResponse(b"x" * 30_000_000, 502, {}, "text/html"),
    "nested lists": FakeResponse(b"[" * 4_000_000 + b"]" * 4_000_000),
    "small lists": FakeResponse(b"[" + b"[]," * 4_000_000 + b"[]]"),
    "small pieces": in_chunks(2, 1_000_000),
}


@pytest.mark.parametrize("case", LARGE)
def test_no_reply_takes_more_memory_than_was_asked_for(fake_server, ask, case):
    """Two documents are asked for, so a megabyte is plenty."""

    def fail():
        with pytest.raises(BackendError):
            ask(backend, documents)

    fake_server.response = FakeResponse(GOOD)
    backend, documents = make(fake_server, timeout=1), DOCUMENTS
    ask(backend, documents)  # what is loaded once is not counted
    fake_server.response = LARGE[case]

    assert peak(fail) < 4_000_000


@pytest.mark.parametrize("text", ["<&>" * 2000, "中" * 5000, "\x01" * 500, "a,[{" * 2000])
@pytest.mark.parametrize("count", [1, 300])
def test_a_reply_may_repeat_the_documents_in_the_longest_form(fake_server, ask, text, count):
    """`<` becomes six bytes where servers are careful, and a Chinese character six for three."""
    documents = [text[: 6000 if count == 1 else 60]] * count

    def echo(received):
        items = [
            {"index": at, "relevance_score": 0.5, "document": {"text": document}, "logit": None}
            for at, document in enumerate(received.body["documents"])
        ]
        body = json.dumps({"results": items})
        for letter in "<&>":
            body = body.replace(letter, f"\\u{ord(letter):04x}")
        return FakeResponse(body.encode())

    fake_server.response = echo

    assert [0.5] * count == ask(make(fake_server), documents)


PAGES = {
    "headings": b"<h1>" * 50_000,
    "input": b"['input': " * 20_000,
    "limits": b"maximum " * 25_000,
    "reasons in other reasons": b'{"errors":{"x":0,"detail":' * 15 + b"{}" + b"}" * 30,
    "reasons in reasons": b'{"error":' * 30 + b"{}" + b"}" * 30,
    "reasons in reasons, without any end": b'{"error":' * 900 + b"[]" + b"}" * 900,
    "tags": b"<" * 200_000,
    "titles": b"<title>" * 28_000,
    "titles that end": b"<title>" * 14_000 + b"</h1>" * 14_000,
    "tokens": b"tokens in " + b"the " * 50_000,
}


@pytest.mark.parametrize("case", PAGES)
@pytest.mark.parametrize("status", [413, 500])
def test_the_page_of_an_error_takes_linear_time(fake_server, case, status):
    """Quadratic, 200 kB took 19 seconds; by twice as much with each level, 300 bytes took ten."""
    fake_server.response = FakeResponse(PAGES[case], status, {}, "text/html")
    began = time.process_time()
    with make(fake_server) as backend, pytest.raises(BackendError, match=f"answered {status}"):
        backend.score(QUERY, DOCUMENTS[:1])

    assert time.process_time() - began < 3


def test_the_title_of_a_long_page_is_read(fake_server, ask):
    page = b"<HTML><Title>Bad Gateway\xc4\xb0</TITLE>" + b"x" * 300_000
    fake_server.response = FakeResponse(page, 502, {}, "text/html")

    with pytest.raises(BackendUnavailable, match="'Bad Gatewayİ'"):
        ask(make(fake_server))


ODD = {
    "a place that is a number": {"detail": [{"loc": 5, "msg": "too long"}]},
    "a place that is a text": {"detail": [{"loc": "body", "msg": "too long"}]},
    "places in places": {"detail": [{"loc": [["body"], {"a": 1}], "msg": "too long"}]},
    "no text": {"detail": [{"msg": 5}, None, 7]},
    "deep": {"error": {"error": {"error": {"message": "too long"}}}},
}


@pytest.mark.parametrize("case", ODD)
def test_odd_messages_are_no_error_of_another_kind(fake_server, ask, case):
    fake_server.response = FakeResponse(ODD[case], 400)

    with pytest.raises(BackendRejected, match="answered 400"):
        ask(make(fake_server))


NUMBERS = {
    "1e999999": "finite",
    "-1e999999": "finite",
    "1" + "0" * 350: "finite",
    "0." + "1" * 50_000: None,
    "1e-999999": None,
    "1" * 5_000: "not valid JSON",
    "1e" + "9" * 5_000: "finite",
}


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:12])
def test_odd_numbers_are_scores_or_typed_errors(fake_server, ask, number):
    body = f'[{{"index":0,"score":{number}}},{{"index":1,"score":0.5}}]'
    fake_server.response = FakeResponse(body.encode())
    if NUMBERS[number] is None:
        assert 0.5 == ask(make(fake_server))[1]
        return

    with pytest.raises(InvalidResponse, match=NUMBERS[number]):
        ask(make(fake_server))


@pytest.mark.parametrize("tokens", [10**300, 1e300, 2**80])
def test_usage_that_makes_no_sense_is_ignored(fake_server, ask, tokens):
    """A counter of tokens could not even be increased by it."""
    fake_server.response = FakeResponse(GOOD | {"usage": {"total_tokens": tokens}})

    assert ask(make(fake_server)).usage is None


WAIT_HEADERS = ["9" * 50_000, "Wed, 21 Oct " + "9" * 5_000 + " 07:28:00 GMT", "\t", "1 Jan 0000"]


@pytest.mark.parametrize("value", WAIT_HEADERS, ids=lambda value: value[:20])
def test_odd_times_to_wait_are_ignored(fake_server, ask, value):
    fake_server.response = FakeResponse(b"", 503, {"Retry-After": value})

    with pytest.raises(BackendOverloaded) as caught:
        ask(make(fake_server))

    assert caught.value.retry_after is None


REASONS = {
    "Amazon": {"Message": "the reason it has"},
    "ASP.NET": {"title": "One or more errors", "errors": {"query": ["the reason it has"]}},
    "a cause": {"code": 400, "cause": "the reason it has"},
    "a function's": {"errorType": "x", "errorMessage": "the reason it has"},
    "a result": {"result": {"error": "the reason it has"}},
    "JSON in a text": {"error": json.dumps({"message": "the reason it has"})},
    "reasons": {"status": "fail", "reasons": ["the reason it has"]},
    "a code": {"error": "bad_request", "message": "the reason it has"},
    "a fault": {"fault": {"faultstring": "the reason it has", "detail": {"errorcode": "x"}}},
    "a list of errors": {"errors": [{"code": 7, "message": "the reason it has"}]},
    "a list of texts": {"errors": ["the reason it has"]},
    "OAuth": {"error": "invalid_request", "error_description": "the reason it has"},
    "OpenAI": {"error": {"type": "x", "code": 1, "message": "the reason it has"}},
    "problem details": {"title": "Bad", "status": 400, "detail": "the reason it has"},
    "Spring": {"status": 400, "error": "Bad Request", "message": "the reason it has"},
    "TEI": {"error": "the reason it has", "error_type": "Validation"},
    "the status as message": {"message": "Bad Request", "error": "the reason it has"},
}


@pytest.mark.parametrize("case", REASONS)
def test_the_servers_own_reason_is_found(fake_server, ask, case):
    fake_server.response = FakeResponse(REASONS[case], 400)

    with pytest.raises(BackendRejected, match=r"answered 400: '(query: )?the reason it has'"):
        ask(make(fake_server))


FIELDS = {
    "FastAPI": {"detail": [{"type": "missing", "loc": ["body", "texts"], "msg": "Field required"}]},
    "FastAPI, strict": {
        "detail": [{"loc": ["body", "x"], "msg": "Extra inputs are not permitted"}]
    },
    "FastAPI, a type": {"detail": [{"loc": ["body"], "msg": "Input should be a valid list"}]},
    "Rust": "Failed to deserialize the JSON body: missing field `texts` at line 1 column 40",
    "Rust, strict": {"error": "unknown field `documents`, expected `query` or `texts`"},
    "Go": {"error": "Field validation for 'TopN' failed on the 'required' tag"},
    "Java": {"message": "query must not be blank"},
    "a demand": {"error": "top_k must be specified"},
    "JSON schema": {"message": "must have required property 'input'"},
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_refused_field_is_no_matter_of_size(fake_server, ask, case):
    body = FIELDS[case]
    fake_server.response = FakeResponse(body.encode() if isinstance(body, str) else body, 422)

    with pytest.raises(BackendRejected, match=r"check that it is a server of this kind$") as caught:
        ask(make(fake_server))

    assert "max_documents" not in str(caught.value)


def _demanding(received):
    if received.body.get("top_n") != len(received.body["documents"]):
        return FakeResponse({"detail": [{"loc": ["body", "top_n"], "msg": "Field required"}]}, 422)
    return FakeResponse(GOOD)


def test_a_server_that_demands_top_n_is_sent_one(fake_server, ask):
    fake_server.response = _demanding

    assert EXPECTED == ask(make(fake_server, send_top_n=True))
    with pytest.raises(BackendRejected, match=r"top_n: Field required'; set `send_top_n`$"):
        ask(make(fake_server))


@pytest.mark.parametrize("wrong", [1, "yes", None])
def test_send_top_n_is_a_switch(fake_server, wrong):
    with pytest.raises(ConfigError, match="`send_top_n` must be True or False"):
        make(fake_server, send_top_n=wrong)


@pytest.mark.parametrize(
    ("dialect", "field"),
    [("vllm", "truncate_prompt_tokens"), ("voyage", "truncation"), ("nim", "truncate")],
)
def test_a_field_that_an_older_server_refuses_is_left_out_from_then_on(
    fake_server, ask, dialect, field
):
    good = serve_dialect(dialect)
    refusal = FakeResponse({"message": f"{field}: Input should be greater than 0"}, 400)
    fake_server.response = lambda received: refusal if field in received.body else good(received)
    backend = make(fake_server, dialect)

    assert 2 == len(ask(backend))
    assert 2 == len(ask(backend))
    assert [True, False, False] == [field in received.body for received in fake_server.requests]


def test_a_refusal_that_stays_is_raised(fake_server, ask):
    fake_server.response = FakeResponse({"message": "truncate_prompt_tokens or so"}, 400)

    with pytest.raises(BackendRejected, match="truncate_prompt_tokens or so"):
        ask(make(fake_server, "vllm"))

    assert 2 == len(fake_server.requests)


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
def test_sglang_gets_another_placeholder_for_blank_documents(fake_server, ask, blank):
    fake_server.response = serve_dialect("sglang")
    ask(make(fake_server, "sglang"), ["panda", blank])

    assert ["panda", "."] == fake_server.requests[0].body["documents"]


OLD_VLLM = {
    "0.8": "[{'type': 'greater_than_equal', 'loc': ('body', 'truncate_prompt_tokens'), "
    "'msg': 'Input should be greater than or equal to 1', 'input': -1, 'ctx': {'ge': 1}}]",
    "0.10": "1 validation error:\n  {'type': 'value_error', 'loc': ('body', "
    "'truncate_prompt_tokens'), 'msg': 'Value error, truncate_prompt_tokens must be positive'}",
    "nested": "Parameter truncate_prompt_tokens (-1) is out of range",
}


@pytest.mark.parametrize("version", OLD_VLLM)
def test_an_old_vllm_is_asked_again_without_what_it_refuses(fake_server, ask, version):
    """As it replied: 400 for a request that newer ones want, to cut texts."""
    good = serve_dialect("vllm")
    error = {"message": OLD_VLLM[version], "type": "BadRequestError", "param": None, "code": 400}
    body = {"error": error} if version == "nested" else {"object": "error", **error}
    fake_server.response = lambda received: (
        FakeResponse(body, 400)
        if received.body.get("truncate_prompt_tokens") == -1
        else good(received)
    )

    assert 2 == len(ask(make(fake_server, "vllm")))
    assert 2 == len(fake_server.requests)


LOGITS = [2.0, -1.0]


@pytest.mark.parametrize("switch", ["use_activation", "activation"])
def test_logits_come_from_vllm_whatever_it_calls_its_switch(fake_server, ask, switch):
    """A version ignores the name that it does not know, and then sends probabilities."""

    def reply(received):
        raw = received.body.get(switch) is False
        scores = LOGITS if raw else [1 / (1 + math.exp(-logit)) for logit in LOGITS]
        results = [{"index": at, "relevance_score": score} for at, score in enumerate(scores)]
        return FakeResponse({"results": results})

    fake_server.response = reply

    assert LOGITS == ask(make(fake_server, "vllm", scale="logit"))
    assert [0.880797, 0.268941] == pytest.approx(ask(make(fake_server, "vllm")), abs=1e-6)


def test_a_vllm_that_knows_no_switch_is_doubted(fake_server, ask, caplog):
    results = [{"index": 0, "relevance_score": 0.88}, {"index": 1, "relevance_score": 0.27}]
    fake_server.response = FakeResponse({"results": results})
    ask(make(fake_server, "vllm", scale="logit"))

    (line,) = [record.getMessage() for record in caplog.records]
    assert "should send logits, and all scores of a response lie between 0 and 1" in line
