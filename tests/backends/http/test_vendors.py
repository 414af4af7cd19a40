"""Vendors' services whose requests differ by more than the names of their fields."""

import logging

import pytest

from rerank_plugins import BackendRejected, load_backend
from rerank_plugins.scores import Usage
from rerank_plugins.testing import FakeResponse, serve_dialect
from tests.backends.http.remote import DOCUMENTS, EXPECTED, QUERY, make, results

REQUESTS = {
    "azure": ("AZURE_AI_API_KEY", "/providers/cohere/v2/rerank", {"api-key": "sk-key"}),
    "contextual": ("CONTEXTUAL_API_KEY", "/v1/rerank", {"Authorization": "Bearer sk-key"}),
    "dashscope-compatible": (
        "DASHSCOPE_API_KEY",
        "/compatible-api/v1/reranks",
        {"Authorization": "Bearer sk-key"},
    ),
    "deepinfra": (
        "DEEPINFRA_API_KEY",
        "/v1/inference/Qwen/Qwen3-Reranker-8B",
        {"Authorization": "Bearer sk-key"},
    ),
    "mixedbread": ("MXBAI_API_KEY", "/v1/reranking", {"Authorization": "Bearer sk-key"}),
    "openvino": ("OPENVINO_API_KEY", "/v3/rerank", {"Authorization": "Bearer sk-key"}),
    "pinecone": (
        "PINECONE_API_KEY",
        "/rerank",
        {"Api-Key": "sk-key", "X-Pinecone-Api-Version": "2026-07"},
    ),
    "qianfan": ("QIANFAN_API_KEY", "/v2/rerank", {"Authorization": "Bearer sk-key"}),
    "rerank": ("RERANK_API_KEY", "/v1/rerank", {"Authorization": "Bearer sk-key"}),
    "zeroentropy": ("ZEROENTROPY_API_KEY", "/v1/models/rerank", {"Authorization": "Bearer sk-key"}),
    "zhipu": ("ZHIPUAI_API_KEY", "/api/paas/v4/rerank", {"Authorization": "Bearer sk-key"}),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_goes_to_the_path_with_the_key_where_the_service_looks(
    fake_server, ask, monkeypatch, kind
):
    variable, path, headers = REQUESTS[kind]
    monkeypatch.setenv(variable, "sk-key")
    fake_server.response = serve_dialect(kind)
    backend = load_backend(f"{kind}+{fake_server.url}?model=Qwen/Qwen3-Reranker-8B")

    assert EXPECTED == ask(backend)
    assert "probability" == backend.scale
    received = fake_server.requests[0]
    assert path == received.path
    assert headers == {name: received.headers[name] for name in headers}
    assert ("Authorization" in headers) is ("Authorization" in received.headers)


def test_a_header_of_the_user_replaces_that_of_the_dialect(fake_server, ask):
    fake_server.response = serve_dialect("pinecone")
    ask(make(fake_server, "pinecone", headers={"x-pinecone-api-version": "2025-04"}))

    sent = {name.lower(): value for name, value in fake_server.requests[0].headers.items()}
    assert "2025-04" == sent["x-pinecone-api-version"]


def test_pinecone_does_not_repeat_the_documents_and_tells_its_units(fake_server, ask):
    fake_server.response = serve_dialect("pinecone")
    scores = ask(make(fake_server, "pinecone"))

    assert Usage(search_units=1) == scores.usage
    assert fake_server.requests[0].body["return_documents"] is False


def test_a_model_of_pinecone_that_can_not_cut_is_not_told_to(fake_server, ask):
    """The refusal names a field within the one that is sent."""
    good = serve_dialect("pinecone")
    refusal = FakeResponse({"error": {"message": "truncate is not a valid option here"}}, 400)
    fake_server.response = lambda received: (
        refusal if "parameters" in received.body else good(received)
    )
    backend = make(fake_server, "pinecone")

    assert EXPECTED == ask(backend)
    assert EXPECTED == ask(backend)
    assert [True, False, False] == ["parameters" in r.body for r in fake_server.requests]


def test_mixedbread_sends_all_results_not_its_ten_best(fake_server, ask):
    fake_server.response = serve_dialect("mixedbread")

    assert [*EXPECTED * 10] == ask(make(fake_server, "mixedbread"), DOCUMENTS * 10)


def test_deepinfra_gets_pairs_and_tells_its_tokens(fake_server, ask):
    fake_server.response = serve_dialect("deepinfra")
    scores = ask(make(fake_server, "deepinfra", model="a/b"))

    assert Usage(42) == scores.usage
    assert {"queries": [QUERY] * 2, "documents": DOCUMENTS} == fake_server.requests[0].body


def test_a_query_that_is_repeated_counts_in_the_size_of_a_request(fake_server):
    fake_server.response = serve_dialect("deepinfra")
    with make(fake_server, "deepinfra", model="a/b") as backend:
        assert 300 == len(backend.score("panda " * 2000, ["panda"] * 300))

    assert len(fake_server.requests) > 1
    assert all(received.size < 2**20 for received in fake_server.requests)
    assert 300 == sum(len(received.body["documents"]) for received in fake_server.requests)


def test_the_reason_of_deepinfra_is_quoted(fake_server, ask):
    fake_server.response = FakeResponse({"detail": {"error": "Model is not available"}}, 404)

    with pytest.raises(BackendRejected, match="404: 'Model is not available'"):
        ask(make(fake_server, "deepinfra", model="a/b"))


QWEN3 = results(0.9971, 0.0072)


def test_probabilities_of_llamacpp_stay_as_they_are(fake_server, ask):
    """It applies a softmax to Qwen3's answers; a sigmoid would leave 0.5 to 0.73."""
    fake_server.response = FakeResponse(QWEN3)
    backend = make(fake_server, "llamacpp")

    assert ([0.9971, 0.0072], "unknown") == (ask(backend), backend.scale)
    backend = make(fake_server, "llamacpp", server_scale="probability")
    assert ([0.9971, 0.0072], "probability") == (ask(backend), backend.scale)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("dialect", "options"),
    [("nim", {}), ("nim", {"scale": "logit"}), ("vllm", {"scale": "logit"})],
)
def test_what_may_be_probabilities_in_place_of_logits_is_told_once(
    fake_server, ask, caplog, dialect, options
):
    fake_server.response = FakeResponse(QWEN3)
    backend = make(fake_server, dialect, model="m", **options)
    ask(backend)
    ask(backend)

    (warning,) = warnings_of(caplog)
    assert f"{dialect} at {fake_server.url}" in warning
    assert "set server_scale='probability', else server_scale='logit'" in warning


@pytest.mark.parametrize(
    ("dialect", "options", "scores"),
    [
        ("nim", {"server_scale": "logit"}, (0.9971, 0.0072)),
        ("nim", {"server_scale": "probability"}, (0.9971, 0.0072)),
        ("nim", {}, (0.5, 1.5)),
        ("nim", {}, (-0.5, 0.5)),
        ("nim", {}, (0.5,)),
        ("cohere", {}, (0.9971, 0.0072)),
        ("llamacpp", {}, (0.9971, 0.0072)),
    ],
)
def test_nothing_is_told_where_the_scale_is_known_or_proven(
    fake_server, caplog, dialect, options, scores
):
    fake_server.response = FakeResponse(results(*scores))
    with make(fake_server, dialect, **options) as backend:
        backend.score(QUERY, DOCUMENTS[: len(scores)])

    assert [] == warnings_of(caplog)
