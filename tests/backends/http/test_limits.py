"""Limits learned from refusals: requests are split; limits are remembered and later raised."""

import pytest

from rerank_plugins import BackendRejected
from rerank_plugins.backends.http import limits as _limits
from rerank_plugins.backends.http.limits import LearnedLimits, SizeLimit, size_limit
from rerank_plugins.backends.http.responses import HTTPResponse
from rerank_plugins.testing import FakeResponse, FakeServer, serve_dialect, word_overlap
from tests.backends.http.remote import QUERY, make

NGINX = FakeResponse(
    b"<html><head><title>413 Request Entity Too Large</title></head><body>nginx</body></html>",
    413,
    content_type="text/html",
)
INFINITY = {
    "detail": [
        {
            "type": "too_long",
            "loc": ["body", "documents"],
            "msg": "List should have at most 8 items after validation, not 20",
            "input": ["hi"] * 20,
        }
    ]
}
TEI = {"error": "batch size 20 > maximum allowed batch size 8", "error_type": "Validation"}
REFUSALS = {
    "Cohere": (400, {"message": "too many documents: the limit is 8, got 20"}),
    "Infinity": (422, INFINITY),
    "our server": (413, {"error": {"message": "a request holds at most 8 documents, not 20"}}),
    "TEI before 2026": (413, TEI),
    "TEI": (422, TEI),
    "Voyage": (400, {"detail": "The batch size limit is 8. Your batch size is 20."}),
}


def limited(limit, refusal):
    """Return a TEI server that accepts up to `limit` documents."""
    good = serve_dialect("tei")

    def answer(received):
        status, body = refusal
        return FakeResponse(body, status) if len(received.body["texts"]) > limit else good(received)

    return answer


def sizes(fake_server):
    return [len(received.body["texts"]) for received in fake_server.requests]


@pytest.mark.parametrize("case", REFUSALS)
def test_a_limit_named_in_the_refusal_is_respected(fake_server, ask, case):
    fake_server.response = limited(8, REFUSALS[case])
    documents = [f"panda {number}" if number % 3 else "hi" for number in range(20)]
    backend = make(fake_server, "tei")

    assert [word_overlap(QUERY, text) for text in documents] == ask(backend, documents)
    assert [20, 8, 8, 4] == sizes(fake_server)
    ask(backend, documents)
    assert [4, 8, 8] == sorted(sizes(fake_server)[4:])
    assert 8 == backend.describe()["endpoints"][0]["max_documents"]


def test_bytes_are_halved_until_they_fit(fake_server, ask):
    """A proxy's 413 says nothing about the limit."""
    good = serve_dialect("vllm")
    fake_server.response = lambda received: NGINX if received.size > 100_000 else good(received)
    documents = ["panda " * 2_000] * 40
    backend = make(fake_server, "vllm")

    assert [word_overlap(QUERY, text) for text in documents] == ask(backend, documents)
    assert 480_000 < fake_server.requests[0].size
    before = len(fake_server.requests)
    ask(backend, documents)
    assert all(received.size <= 100_000 for received in fake_server.requests[before:])


def test_tokens_of_a_batch_are_split_like_bytes(fake_server, ask):
    good = serve_dialect("voyage")
    body = {"detail": "The max allowed tokens per submitted batch is 600. Your batch has 900."}
    fake_server.response = lambda received: (
        FakeResponse(body, 400) if len(received.body["documents"]) > 5 else good(received)
    )

    assert 20 == len(ask(make(fake_server, "voyage"), ["panda panda"] * 20))


def test_a_single_document_that_is_too_large_is_one_error(fake_server, ask):
    good = serve_dialect("vllm")
    fake_server.response = lambda received: NGINX if received.size > 10_000 else good(received)

    with pytest.raises(BackendRejected, match="it got document 3 alone, 60016 bytes") as caught:
        ask(make(fake_server, "vllm", max_parallel=1), ["hi", "hi", "hi", "a" * 60_000, "hi"])

    assert 413 == caught.value.status_code
    assert BackendRejected is type(caught.value)


def test_a_refusal_about_something_else_is_raised_at_once(fake_server, ask):
    fake_server.response = FakeResponse(
        {"detail": "unknown model: 5 documents were not looked at"}, 422
    )

    with pytest.raises(BackendRejected, match="unknown model"):
        ask(make(fake_server), ["hi"] * 20)

    assert 1 == len(fake_server.requests)


def test_listwise_requests_are_never_split(fake_server, ask):
    fake_server.response = FakeResponse(TEI, 413)

    with pytest.raises(BackendRejected, match="maximum allowed batch size 8"):
        ask(make(fake_server, "tei", listwise=True), ["hi"] * 20)

    assert 1 == len(fake_server.requests)


def test_concurrent_parts_share_a_learned_limit(fake_server, ask):
    """What was planned before the limit was known is split without asking, where it can be."""
    fake_server.response = limited(8, REFUSALS["TEI"])
    backend = make(fake_server, "tei", max_parallel=1)

    assert 96 == len(ask(backend, ["hi"] * 96))
    assert [32] == [size for size in sizes(fake_server) if size > 8]


def test_a_limit_is_doubled_after_a_while(fake_server, ask, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(_limits, "monotonic", lambda: now)
    fake_server.response = limited(8, REFUSALS["TEI"])
    backend = make(fake_server, "tei")
    ask(backend, ["hi"] * 20)
    fake_server.response = serve_dialect("tei")
    now += 601
    ask(backend, ["hi"] * 20)
    assert [4, 16] == sorted(sizes(fake_server)[4:])
    now += 601
    ask(backend, ["hi"] * 20)

    assert [20] == sizes(fake_server)[6:]


def test_each_server_has_its_own_limit(ask):
    """Requests fit into the smallest, since any server may get them."""
    with (
        FakeServer(limited(8, REFUSALS["TEI"])) as small,
        FakeServer(serve_dialect("tei")) as large,
    ):
        backend = make(small, "tei", endpoints=[small.url, large.url])
        for _ in range(20):
            assert 20 == len(ask(backend, ["hi"] * 20))
        limits = [server["max_documents"] for server in backend.describe()["endpoints"]]

    assert [8, None] == limits


READ = {
    "a number without a limit": (400, "documents 3 and 5 are equal", None),
    "a page of nginx": (413, NGINX.body.decode(), SizeLimit("bytes", 500)),
    "an impossible limit": (422, "batch size 20 > maximum allowed batch size 40", None),
    "limit of zero": (400, "at most 0 documents", None),
    "no limit of a request": (422, "query: at most 4 characters", None),
    "not a refusal": (500, "at most 8 documents", None),
    "plain text of axum": (413, "length limit exceeded", SizeLimit("bytes", 500)),
    "too many tokens": (400, "Total tokens 90 exceed 60", SizeLimit("bytes", 500)),
}


@pytest.mark.parametrize("case", READ)
def test_limits_are_read_from_refusals(case):
    status, text, expected = READ[case]

    assert expected == size_limit(HTTPResponse(status, {}, text.encode()), documents=20, size=1000)


def test_a_known_limit_only_gets_lower():
    limits = LearnedLimits()
    limits.learn(SizeLimit("documents", 8))
    limits.learn(SizeLimit("documents", 16))

    assert 8 == limits.maximum("documents")
    assert limits.maximum("bytes") is None
