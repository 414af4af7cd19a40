"""HTTPBackend against a real server on loopback, in every dialect."""

import math
import time

import pytest

from rerank_plugins import (
    BackendError,
    BackendTimeout,
    InvalidResponse,
    UnsupportedInputError,
    load_backend,
)
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.testing import (
    BackendContract,
    FakeResponse,
    FakeServer,
    serve_dialect,
    silence,
    word_overlap,
)
from tests.backends.http.remote import DOCUMENTS, EXPECTED, QUERY, make, results


class TestContract(BackendContract):
    """Every dialect keeps the contract, against a server that is strict about its fields."""

    @pytest.fixture(autouse=True, params=sorted(DIALECTS))
    def _server(self, request):
        with FakeServer(serve_dialect(request.param)) as fake_server:
            self.dialect, self.fake_server = request.param, fake_server
            yield

    def make_backend(self):
        scale = {"server_scale": "logit"} if self.dialect == "llamacpp" else {}
        return make(self.fake_server, self.dialect, **scale)

    def test_scores_are_those_of_the_server(self):
        with self.make_backend() as backend:
            expected = [word_overlap(self.query, document) for document in self.documents]
            if self.dialect not in ("llamacpp", "nim"):
                assert expected == backend.score(self.query, self.documents)
            else:
                self.assert_close(expected, backend.score(self.query, self.documents))


def test_a_spec_string_builds_a_backend_of_the_server(fake_server, ask):
    backend = load_backend(f"xinference+{fake_server.url}?model=bge&timeout=5")

    assert EXPECTED == ask(backend)
    received = fake_server.requests[0]
    assert ("POST", "/v1/rerank") == (received.method, received.path)
    assert {"model": "bge", "query": QUERY, "documents": DOCUMENTS} == received.body
    assert "application/json" == received.headers["Content-Type"]
    assert "Authorization" not in received.headers


def test_blank_documents_are_sent_as_one_space(fake_server, ask):
    """Servers refuse "" or encode it in their own ways."""
    fake_server.response = FakeResponse(results(0.1, 0.2, 0.3))
    ask(make(fake_server), ["", " \n\t", " a "])

    assert [" ", " ", " a "] == fake_server.requests[0].body["documents"]


def test_documents_are_cut_to_infinitys_limit(fake_server, ask):
    fake_server.response = serve_dialect("infinity")
    ask(make(fake_server, "infinity"), ["a" * 200_000, "a"])

    assert [122_880, 1] == [len(text) for text in fake_server.requests[0].body["documents"]]


def test_text_arrives_unchanged(fake_server, ask):
    texts = ["大熊猫 🐼", 'quote " and \\', "nul \x00 tab \t", "\u2028 line"]
    fake_server.response = FakeResponse(results(0.1, 0.2, 0.3, 0.4))
    ask(make(fake_server), texts)

    assert texts == fake_server.requests[0].body["documents"]


def test_logits_become_probabilities_once(fake_server, ask):
    fake_server.response = FakeResponse(results(0.0, 3.0))
    backend = make(fake_server, "nim")

    assert "probability" == backend.scale
    assert [0.5, pytest.approx(1 / (1 + math.exp(-3)))] == ask(backend)


def test_extreme_logits_do_not_overflow(fake_server, ask):
    fake_server.response = FakeResponse(results(-1e308, 1e308))

    assert [0.0, 1.0] == ask(make(fake_server, "nim"))


@pytest.mark.parametrize(
    ("dialect", "options", "sent"),
    [
        ("infinity", {}, {"raw_scores": True}),
        ("tei", {}, {"raw_scores": True}),
        ("vllm", {}, {"use_activation": False}),
        ("nim", {}, {}),
        ("rerank", {}, {"raw_scores": True}),
        ("llamacpp", {"server_scale": "logit"}, {}),
        ("tei", {"server_scale": "logit"}, {}),
        ("xinference", {"server_scale": "logit"}, {}),
    ],
)
def test_logits_are_returned_as_they_come(fake_server, ask, dialect, options, sent):
    fake_server.response = FakeResponse(results(-7.5, 3.0))
    backend = make(fake_server, dialect, scale="logit", **options)

    assert "logit" == backend.scale
    assert [-7.5, 3.0] == ask(backend)
    switches = {"raw_scores", "use_activation"}
    body = fake_server.requests[0].body
    assert sent == {name: value for name, value in body.items() if name in switches}


def test_scores_of_unknown_scale_stay_as_they_are(fake_server, ask):
    fake_server.response = FakeResponse(results(-7.5, 0.5))
    backend = make(fake_server, "xinference")

    assert "unknown" == backend.scale
    assert [-7.5, 0.5] == ask(backend)


def test_no_second_sigmoid_is_applied_to_probabilities(fake_server, ask):
    assert EXPECTED == ask(make(fake_server, "xinference", server_scale="probability"))


def test_probabilities_may_be_off_by_rounding_only(fake_server, ask):
    fake_server.response = FakeResponse(results(1.0000005, -0.0000005))

    assert [1.0, 0.0] == ask(make(fake_server, "cohere"))


@pytest.mark.parametrize("score", [1.1, -0.1, 4.3])
def test_probabilities_outside_0_to_1_are_refused(fake_server, ask, score):
    fake_server.response = FakeResponse(results(0.5, score))

    with pytest.raises(InvalidResponse, match=r"document 1 .* set server_scale='logit'"):
        ask(make(fake_server, "cohere"))


def test_documents_are_split_over_the_servers_limit(fake_server, ask):
    documents = [f"panda {number}" if number % 3 else "hi" for number in range(70)]
    fake_server.response = serve_dialect("tei")

    expected = [word_overlap(QUERY, text) for text in documents]
    assert expected == ask(make(fake_server, "tei"), documents)
    assert [6, 32, 32] == sorted(len(received.body["texts"]) for received in fake_server.requests)


def test_max_documents_overrides_the_limit(fake_server, ask):
    fake_server.response = serve_dialect("tei")
    ask(make(fake_server, "tei", max_documents=4), ["hi"] * 10)

    assert [2, 4, 4] == sorted(len(received.body["texts"]) for received in fake_server.requests)


@pytest.mark.parametrize("letter", ["a", "熊", '"', "\x00"])
def test_large_requests_are_split_by_bytes(fake_server, ask, letter):
    """nginx refuses more than one megabyte."""
    fake_server.response = serve_dialect("vllm")
    documents = [letter * 50_000] * 25

    assert 25 == len(ask(make(fake_server, "vllm"), documents))
    assert 1 < len(fake_server.requests)
    assert 1_000_000 >= max(received.size for received in fake_server.requests)


def test_parts_are_sent_concurrently_up_to_a_limit(fake_server, ask):
    answer = serve_dialect("tei")

    def slow(received):
        time.sleep(0.05)
        return answer(received)

    fake_server.response = slow
    ask(make(fake_server, "tei", max_parallel=3), ["hi"] * 320)

    assert 3 == fake_server.max_in_flight


def test_score_many_sends_requests_concurrently(fake_server):
    answer = serve_dialect("tei")

    def slow(received):
        time.sleep(0.05)
        return answer(received)

    fake_server.response = slow
    with make(fake_server, "tei", max_parallel=3) as backend:
        results = backend.score_many([(f"panda {n}", ["panda", str(n)]) for n in range(9)])

    assert [[0.5, 0.5]] * 9 == results
    assert 3 == fake_server.max_in_flight


def test_one_failing_part_fails_the_call_at_once(fake_server, ask):
    """All or nothing; the silent parts are not waited for, and no further ones are sent."""

    def answer(received):
        return (
            FakeResponse({"error": "no"}, 424)
            if "bad" in received.body["texts"]
            else silence(received)
        )

    fake_server.response = answer
    backend = make(fake_server, "tei", max_documents=1, max_parallel=3, timeout=60)

    with pytest.raises(BackendError, match="424"):
        ask(backend, ["hi", "bad", *["hi"] * 20])

    assert len(fake_server.requests) <= 4  # the thread that failed may begin one more


def test_all_parts_share_one_timeout(fake_server, ask):
    answer = serve_dialect("tei")

    def slow(received):
        time.sleep(0.1)
        return answer(received)

    fake_server.response = slow
    backend = make(fake_server, "tei", max_documents=1, max_parallel=1, timeout=0.35)

    with pytest.raises(BackendTimeout):
        ask(backend, ["hi"] * 1_000)

    assert 10 > len(fake_server.requests)


def test_listwise_requests_are_never_split(fake_server, ask):
    fake_server.response = serve_dialect("cohere")
    backend = make(fake_server, "cohere", listwise=True, max_documents=30)

    assert not backend.cacheable
    assert 30 == len(ask(backend, ["a" * 100_000] * 30))
    assert 1 == len(fake_server.requests)


def test_listwise_requests_beyond_the_limit_are_refused(fake_server, ask):
    backend = make(fake_server, "cohere", listwise=True, max_documents=30)

    with pytest.raises(UnsupportedInputError, match="31 documents"):
        ask(backend, ["a"] * 31)

    assert [] == fake_server.requests
