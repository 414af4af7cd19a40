"""The application: protocols, and the format of responses and errors."""

import json
import math

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import (
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    load_backend,
)
from rerank_plugins.backends.embedded import EmbeddedBackend
from rerank_plugins.scores import Scores, Usage
from rerank_plugins.testing import FailingBackend, FakeBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from tests.support.serving import listening, serving

QUERY = "what is a panda"
DOCUMENTS = ["hi", "a panda is", "what is a panda"]
BEST_FIRST = [(2, 1.0), (1, 0.75), (0, 0.0)]


@pytest.fixture(scope="module")
def client():
    with serving(FakeBackend(), model_names=("one", "two")) as client:
        yield client


def post(client, path, body, **headers):
    if isinstance(body, bytes):
        return client.post(path, content=body, headers={"content-type": "application/json"})
    return client.post(path, json=body, headers=headers)


class TestProtocols:
    @pytest.mark.parametrize(("path", "version"), [("/v1/rerank", "1"), ("/v2/rerank", "2")])
    def test_cohere_jina_and_xinference(self, client, path, version):
        response = post(
            client, path, {"model": "two", "query": QUERY, "documents": DOCUMENTS}
        ).json()

        assert ["id", "meta", "model", "results", "usage"] == sorted(response)
        assert "two" == response["model"]
        assert version == response["meta"]["api_version"]["version"]
        assert BEST_FIRST == [(r["index"], r["relevance_score"]) for r in response["results"]]
        assert all(set(r) == {"index", "relevance_score"} for r in response["results"])

    def test_documents_are_repeated_on_request(self, client):
        body = {"query": QUERY, "documents": [{"text": "panda"}, "hi"], "return_documents": True}
        results = post(client, "/v1/rerank", body).json()["results"]

        assert [{"text": "panda"}, {"text": "hi"}] == [r["document"] for r in results]

    def test_tei(self, client):
        body = {"query": QUERY, "texts": DOCUMENTS, "truncate": True, "return_text": True}
        response = post(client, "/rerank", body).json()

        assert BEST_FIRST == [(item["index"], item["score"]) for item in response]
        assert DOCUMENTS[2] == response[0]["text"]

    @pytest.mark.parametrize("name", ["documents", "candidates"])
    def test_plain(self, client, name):
        response = post(client, "/rerank", {"query": QUERY, name: DOCUMENTS, "top_k": 1}).json()

        expected = {"index": 2, "score": 1.0, "document": DOCUMENTS[2]}
        assert ("one", [expected]) == (response["model"], response["results"])

    def test_infinity(self, client):
        body = {"query": QUERY, "documents": DOCUMENTS, "top_n": 2, "return_documents": False}
        response = post(client, "/rerank", body).json()["results"]

        assert BEST_FIRST[:2] == [(r["index"], r["relevance_score"]) for r in response]

    @pytest.mark.parametrize("field", [{"raw_scores": True}, {"use_activation": False}])
    def test_logits(self, client, field):
        body = {"query": QUERY, "documents": DOCUMENTS, **field}
        scores = [r["relevance_score"] for r in post(client, "/rerank", body).json()["results"]]

        assert [36.7, math.log(3), -36.7] == pytest.approx(scores)

    def test_probabilities_of_a_backend_that_scores_logits(self):
        backend = FakeBackend(lambda query, text: float(len(text)), scale="logit")
        with serving(backend) as client:
            body = {"query": QUERY, "texts": ["", "ab"], "raw_scores": False}
            (best, _) = post(client, "/rerank", body).json()

        assert 1 / (1 + math.exp(-2)) == pytest.approx(best["score"])

    def test_scores_of_an_unknown_scale_are_not_rescaled(self):
        with serving(FakeBackend(scale="unknown")) as client:
            reply = post(client, "/rerank", {"query": "q", "texts": ["a"], "raw_scores": True})

        assert (422, "unsupported") == (reply.status_code, reply.json()["error"]["type"])

    @pytest.mark.parametrize("raw", [True, False, None])
    def test_similarities_are_returned_as_they_are(self, raw):
        """They are raw, and nothing makes probabilities of them."""
        with serving(FakeBackend(lambda *_: 17.5, scale="similarity")) as client:
            body = {"query": "q", "texts": ["a"], "raw_scores": raw}
            (result,) = post(client, "/rerank", body).json()
            assert "similarity" == client.get("/info").json()["scale"]

        assert 17.5 == result["score"]

    @pytest.mark.parametrize(
        "field", [{"raw_scores": False}, {"use_activation": True}, {"raw_scores": "false"}]
    )
    def test_the_default_scale_asks_for_nothing_where_it_is_unknown(self, field):
        with serving(FakeBackend(lambda *_: 7.0, scale="unknown")) as client:
            (result,) = post(client, "/rerank", {"query": "q", "texts": ["a"], **field}).json()

        assert 7.0 == result["score"]

    @pytest.mark.parametrize("name", ["top_n", "top_k"])
    def test_the_number_of_results_is_honoured_in_each_shape(self, client, name):
        of_tei = post(client, "/rerank", {"query": QUERY, "texts": DOCUMENTS, name: 2}).json()
        body = {"query": QUERY, "documents": DOCUMENTS, name: 2}
        of_cohere = post(client, "/v1/rerank", body).json()["results"]

        assert BEST_FIRST[:2] == [(item["index"], item["score"]) for item in of_tei]
        assert [2, 1] == [item["index"] for item in of_cohere]

    def test_tei_repeats_texts_by_either_name(self, client):
        body = {"query": QUERY, "texts": ["hi"], "return_documents": True, "truncate": False}

        assert "hi" == post(client, "/rerank", body).json()[0]["text"]

    @pytest.mark.parametrize("name", ["max_tokens_per_query", "truncate_prompt_tokens"])
    def test_texts_are_cut_where_the_model_cuts_or_not_at_all(self, name):
        with serving(EmbeddedBackend(max_length=64), warm_up=False) as client:
            body = {"query": QUERY, "documents": DOCUMENTS}
            longer = post(client, "/v1/rerank", {**body, name: 64})
            shorter = post(client, "/v1/rerank", {**body, name: 63})

        assert 200 == longer.status_code
        assert (422, "unsupported") == (shorter.status_code, shorter.json()["error"]["type"])
        assert f"{name}: the model cuts at 64 tokens, not earlier" == shorter.json()["message"]

    @pytest.mark.parametrize("filler", ["The sea is blue. ", "海是蓝色的。"])
    def test_documents_are_read_as_far_as_the_client_wants(self, filler):
        """Else to their end; what is cut is told, and where the best window stands."""
        document = filler * 300 + "The giant panda eats bamboo."
        with serving(EmbeddedBackend(window_tokens=64), warm_up=False) as client:
            body = {"query": "What do giant pandas eat?", "documents": ["hi", document]}
            whole = post(client, "/v1/rerank", body).json()
            for limit in ({"max_tokens_per_doc": 99}, {"max_chunks_per_doc": 1}):
                cut = post(client, "/v1/rerank", {**body, **limit}).json()
                scores = [
                    {item["index"]: item["relevance_score"] for item in reply["results"]}
                    for reply in (whole, cut)
                ]

                assert [1] == cut["meta"]["truncated"]
                assert cut["meta"]["windows"]["1"] < whole["meta"]["windows"]["1"]
                assert scores[0][0] == pytest.approx(scores[1][0], abs=1e-6)
                assert scores[0][1] > scores[1][1]

        start, end = whole["meta"]["passages"]["1"]
        assert "eats bamboo" in document[start:end]
        assert "truncated" not in whole["meta"]

    def test_a_client_of_ours_learns_what_is_known_of_long_documents(self):
        own = {"max_windows": 8, "window_tokens": 16}
        documents = ["a panda", "The sea is blue. " * 9 + "A panda eats bamboo.", "sea " * 200]
        with (
            listening(EmbeddedBackend(**own), warm_up=False) as url,
            load_backend(f"rerank+{url}") as remote,
        ):
            scores = remote.score("what do pandas eat", documents)
        expected = EmbeddedBackend(**own).score("what do pandas eat", documents)

        assert {2} == scores.truncated == expected.truncated
        assert {1, 2} == {*scores.windows}
        assert (expected.windows, expected.passages) == (scores.windows, scores.passages)

    @pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
    def test_no_documents_give_no_results(self, client, path):
        reply = post(client, path, {"query": "q", "documents": []})

        assert (200, []) == (reply.status_code, reply.json()["results"])

    def test_models_and_info(self, client):
        assert ["one", "two"] == [m["id"] for m in client.get("/v1/models").json()["data"]]
        assert "rerank" == client.get("/v1/models/two").json()["model_type"]
        assert 404 == client.get("/v1/models/three").status_code
        assert {"auth": False} == client.get("/v1/cluster/auth").json()
        info = client.get("/info").json()
        assert ("one", 1000, "fake") == (
            info["model_id"],
            info["max_client_batch_size"],
            info["backend"]["name"],
        )

    @pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
    def test_documents_are_repeated_by_a_setting(self, path):
        body = {"query": QUERY, "documents": ["hi"]}
        with serving(FakeBackend(), return_documents=True) as client:
            (repeated,) = post(client, path, body).json()["results"]
            (bare,) = post(client, path, {**body, "return_documents": False}).json()["results"]
            (of_tei,) = post(client, "/rerank", {"query": QUERY, "texts": ["hi"]}).json()

        assert {"text": "hi"} == repeated["document"]
        assert {"index", "relevance_score"} == bare.keys()
        assert {"index", "score"} == of_tei.keys()

    @pytest.mark.parametrize("names", [("*",), ("one", "*"), ("*", "one")])
    def test_a_star_stands_for_any_model(self, names):
        with serving(FakeBackend(), model_names=names) as client:
            body = {"model": "rerank-v3.5", "query": "q", "documents": ["a"]}
            reply = post(client, "/v1/rerank", body).json()
            listed = [card["id"] for card in client.get("/v1/models").json()["data"]]
            card = client.get("/v1/models/jina/any").json()

        assert "rerank-v3.5" == reply["model"]
        assert ["one" if "one" in names else "fake"] == listed
        assert "jina/any" == card["id"]

    def test_info_has_numbers_where_nothing_is_known(self):
        with serving(FakeBackend(scale="unknown")) as client:
            info = client.get("/info").json()

        assert 512 == info["max_input_length"]
        numbers = ("max_client_batch_size", "max_concurrent_requests", "max_batch_tokens")
        assert all(isinstance(info[name], int) for name in numbers)

    @pytest.mark.parametrize("path", ["/health", "/healthz"])
    def test_health_is_readiness(self, client, path):
        assert {"status": "ready"} == client.get(path).json()
        with serving(FakeBackend()) as other:
            other.app.state.lifecycle.draining = True
            assert 503 == other.get(path).status_code

    def test_a_name_beside_texts_is_ignored_as_by_tei(self, client):
        body = {"model": "x", "query": QUERY, "texts": ["a"]}

        assert 200 == post(client, "/rerank", body).status_code

    def test_another_model_is_refused(self, client):
        reply = post(client, "/v1/rerank", {"model": "x", "query": "q", "documents": ["a"]})

        assert (404, "model_not_found") == (reply.status_code, reply.json()["error"]["type"])


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (BackendTimeout("slow"), 504, "timeout"),
        (BackendOverloaded("busy", retry_after=7), 503, "overloaded"),
        (BackendUnavailable("gone"), 503, "backend_unavailable"),
        (BackendRejected("no", status_code=400), 502, "backend_failed"),
        (RuntimeError("a secret text"), 500, "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_of_the_backend_have_one_format(error, status, kind):
    with serving(FailingBackend(error), warm_up=False) as client:
        reply = post(client, "/v1/rerank", {"query": "q", "documents": ["a"]})

    assert (status, kind) == (reply.status_code, reply.json()["error"]["type"])
    assert ["detail", "error", "message"] == sorted(reply.json())
    assert "secret" not in reply.text
    assert reply.json()["error"]["request_id"] == reply.headers["x-request-id"]
    if status in (503, 504):
        assert str(int(getattr(error, "retry_after", None) or 1)) == reply.headers["retry-after"]


def test_a_request_id_is_kept_if_it_is_harmless(client):
    accepted = client.get("/livez", headers={"x-request-id": "abc-1_2"})
    replaced = client.get("/livez", headers={"x-request-id": "a\tb"})

    assert "abc-1_2" == accepted.headers["x-request-id"]
    assert 32 == len(replaced.headers["x-request-id"])


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/v1/rerank"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_wrong_method_names_the_right_one(client, method, path):
    reply = client.request(method, path)

    assert (405, "POST") == (reply.status_code, reply.headers["allow"])
    assert "this path takes POST, with a body of JSON" in reply.json()["message"]
    assert ("GET /info" in reply.json()["message"]) is (method == "GET")


@pytest.mark.parametrize("path", ["/", "/info", "/health", "/v1/models", "/v1/models/one"])
def test_a_request_to_another_path_is_led_to_those_of_its_method(client, path):
    """As of a client whose base URL ends too early, and then posts to `/`."""
    message = client.post(path, json={}).json()["message"]

    expected = "this path takes GET; there are POST /v1/rerank, POST /v2/rerank, POST /rerank"
    assert expected == message


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/rerank", "/v1/nope/rerank"])
def test_an_unknown_path_lists_the_others(client, path):
    reply = client.post(path, json={})

    assert 404 == reply.status_code
    for known in ("POST /v1/rerank", "POST /v2/rerank", "POST /rerank", "GET /health", "GET /info"):
        assert known in reply.json()["message"]
    assert "nope" not in reply.text
    assert "/openapi.json" not in client.get("/openapi.json").json()["paths"]


def test_the_root_lists_the_paths(client):
    paths = client.get("/").json()["paths"]

    assert "Rerank documents." == paths["POST /v1/rerank"]
    assert {"GET /v1/models", "GET /livez", "GET /info"} < paths.keys()


ACCEPTED_BY_BROWSERS = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def test_the_root_leads_a_browser_to_the_page(client):
    reply = client.get("/", headers={"accept": ACCEPTED_BY_BROWSERS})

    assert "<title>" in reply.text
    assert "/ui" == reply.url.path


def test_the_root_is_no_page_where_there_is_none():
    with serving(FakeBackend(), ui=False) as client:
        reply = client.get("/", headers={"accept": ACCEPTED_BY_BROWSERS})

    assert "GET /info" in reply.json()["paths"]


def test_openapi_describes_the_bodies(client):
    schema = client.get("/openapi.json").json()

    body = schema["paths"]["/v1/rerank"]["post"]["requestBody"]["content"]["application/json"]
    name = body["schema"]["$ref"].rpartition("/")[2]
    assert "documents" in schema["components"]["schemas"][name]["properties"]
    assert "$defs" not in json.dumps(schema)


class Counting(FakeBackend):
    """Returns scores with all facts."""

    def score(self, query, documents):
        return Scores(
            [0.5] * len(documents),
            backend="secret-host",
            model="/folder/of/a-model",
            scale="probability",
            truncated=[1],
            usage=Usage(tokens=12, search_units=1),
        )

    def score_many(self, requests):
        return [self.score(query, documents) for query, documents in requests]


@pytest.fixture(scope="module")
def counted():
    with serving(Counting(), warm_up=False) as client:
        yield client


class TestFacts:
    """Model, usage and truncation, in the fields that each protocol's clients read."""

    @pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
    def test_cohere_and_jina(self, counted, path):
        body = post(counted, path, {"query": QUERY, "documents": DOCUMENTS}).json()

        assert {"prompt_tokens": 12, "total_tokens": 12} == body["usage"]
        assert {
            "api_version": {"version": path[2] if path.startswith("/v") else "1"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": 12, "output_tokens": 0},
            "scored_by": "a-model",
            "truncated": [1],
        } == body["meta"]

    def test_plain(self, counted):
        body = post(counted, "/rerank", {"query": QUERY, "candidates": DOCUMENTS}).json()

        assert 12 == body["usage"]["total_tokens"]

    def test_tei(self, counted):
        response = post(counted, "/rerank", {"query": QUERY, "texts": DOCUMENTS})

        assert "12" == response.headers["x-compute-tokens"]
        assert all(set(item) == {"index", "score"} for item in response.json())

    def test_tokens_are_counted(self):
        with serving(Counting(), warm_up=False) as client:
            for _ in range(2):
                post(client, "/v1/rerank", {"query": QUERY, "documents": DOCUMENTS})
            metrics = client.get("/metrics").text

        assert "rerank_tokens_total 24.0" in metrics

    @pytest.mark.parametrize(("documents", "units"), [(1, 1), (100, 1), (101, 2), (0, 0)])
    def test_what_parsers_need_is_estimated_where_nobody_counts(self, client, documents, units):
        texts = ["a" * 40] * documents
        body = post(client, "/v1/rerank", {"query": QUERY, "documents": texts}).json()
        meta = body["meta"]

        tokens = body["usage"]["total_tokens"]
        assert 10 * documents <= tokens <= 20 * documents
        assert tokens == body["usage"]["prompt_tokens"] == meta["tokens"]["input_tokens"]
        assert {"search_units": units} == meta["billed_units"]
        assert ["billed_units", "tokens"] == meta["estimated"]
        assert "truncated" not in meta

    def test_estimates_are_not_counted_in_the_metrics(self, client):
        post(client, "/v1/rerank", {"query": QUERY, "documents": DOCUMENTS})

        assert "rerank_tokens_total 0.0" in client.get("/metrics").text

    def test_the_backend_that_scored_is_named_where_it_has_no_model(self):
        chain = FallbackBackend([FailingBackend(BackendUnavailable("gone")), EmbeddedBackend()])
        with serving(chain, warm_up=False) as client:
            body = post(client, "/v1/rerank", {"query": QUERY, "documents": DOCUMENTS}).json()

        assert "embedded" == body["meta"]["scored_by"]
