"""Which server is at a URL, recognised by its responses to GET requests."""

import pytest

from rerank_plugins import (
    AuthenticationError,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
)
from rerank_plugins.backends.http.discovery import DiscoveredServer, probe
from rerank_plugins.testing import FakeResponse, FakeServer, silence

NOT_FOUND = FakeResponse({"detail": "Not Found"}, 404)
REFUSED = FakeResponse({"detail": "Unauthorized"}, 401)
EMPTY = FakeResponse(b"", content_type=None)

INFINITY = {
    "data": [
        {"id": "bge", "owned_by": "infinity", "capabilities": ["rerank"], "stats": {}},
        {"id": "e5", "owned_by": "infinity", "capabilities": ["embed"], "stats": {}},
    ]
}
TEI = {
    "model_id": "BAAI/bge-reranker-base",
    "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
    "max_client_batch_size": 64,
    "max_input_length": 512,
    "auto_truncate": True,
    "version": "1.9.3",
}
VLLM = {"object": "list", "data": [{"id": "bge", "owned_by": "vllm", "max_model_len": 8192}]}
XINFERENCE = {
    "data": [
        {"id": "chat", "owned_by": "xinference", "model_type": "LLM"},
        {"id": "bge", "owned_by": "xinference", "model_type": "rerank"},
    ]
}

OPEN = {
    "infinity": ({"/models": INFINITY}, {"models": ("bge",), "max_documents": 2048}),
    "llamacpp": (
        {"/v1/models": {"data": [{"id": "m.gguf", "owned_by": "llamacpp"}]}},
        {"models": ("m.gguf",)},
    ),
    "nim": (
        {
            "/v1/health/ready": {"object": "health.response", "status": "ready"},
            "/v1/models": {"data": [{"id": "nvidia/rerank", "owned_by": "system"}]},
        },
        {"models": ("nvidia/rerank",), "max_documents": 512},
    ),
    "sglang": (
        {"/v1/models": {"data": [{"id": "bge", "owned_by": "sglang", "max_model_len": 512}]}},
        {"models": ("bge",), "max_length": 512},
    ),
    "tei": (
        {"/info": TEI, "/health": EMPTY},
        {
            "models": ("BAAI/bge-reranker-base",),
            "version": "1.9.3",
            "max_documents": 64,
            "max_length": 512,
        },
    ),
    "vllm": (
        {"/v1/models": VLLM, "/version": {"version": "0.32.0"}, "/health": EMPTY},
        {"models": ("bge",), "version": "0.32.0", "max_length": 8192},
    ),
    "xinference": (
        {"/v1/models": XINFERENCE, "/v1/cluster/version": {"version": "4.1.0"}},
        {"models": ("bge",), "version": "4.1.0"},
    ),
}
GUARDED = {
    "infinity": {"/models": REFUSED, "/health": {"unix": 1790000000.0}},
    "llamacpp": {"/v1/models": REFUSED, "/health": {"status": "ok"}},
    "tei": {"/info": REFUSED, "/health": EMPTY},
    "vllm": {"/v1/models": REFUSED, "/health": EMPTY, "/version": {"version": "0.32.0"}},
    "xinference": {"/v1/models": REFUSED, "/v1/cluster/auth": {"auth": True}},
}


def serving(pages):
    """Serve these pages, and 404 for all others."""

    def answer(received):
        assert received.method == "GET"
        page = pages.get(received.path, NOT_FOUND)
        return page if isinstance(page, FakeResponse) else FakeResponse(page)

    return FakeServer(answer)


@pytest.mark.parametrize("dialect", OPEN)
def test_models_and_limits_of_open_servers_are_read(dialect):
    pages, facts = OPEN[dialect]
    with serving(pages) as fake_server:
        expected = DiscoveredServer(dialect=dialect, base_url=fake_server.url, **facts)

        assert expected == probe(fake_server.url)


@pytest.mark.parametrize("dialect", GUARDED)
def test_servers_with_keys_are_recognised_by_their_open_pages(dialect):
    with serving(GUARDED[dialect]) as fake_server:
        info = probe(fake_server.url)

    assert dialect == info.dialect
    assert () == info.models
    assert not info.authorized


def test_a_key_that_may_score_need_not_read_the_version():
    """Xinference 4.1 shows its version only to administrators."""
    with serving({"/v1/models": XINFERENCE, "/v1/cluster/version": REFUSED}) as fake_server:
        info = probe(fake_server.url)

    assert (("bge",), None, True) == (info.models, info.version, info.authorized)


def test_llama_cpp_is_recognised_by_its_header():
    listing = FakeResponse({"data": []}, headers={"Server": "llama.cpp"})
    with serving({"/v1/models": listing}) as fake_server:
        assert "llamacpp" == probe(fake_server.url).dialect


def test_a_server_without_models_is_recognised():
    with serving({"/v1/models": {"data": []}, "/v1/cluster/auth": {"auth": False}}) as fake_server:
        info = probe(fake_server.url)

    assert ("xinference", (), True) == (info.dialect, info.models, info.authorized)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/rerank", "/rerank/"])
def test_any_usual_url_of_a_server_is_accepted(path):
    with serving(OPEN["xinference"][0]) as fake_server:
        info = probe(fake_server.url + path)

        assert f"xinference+{fake_server.url}?model=bge" == info.spec


def test_a_prefix_of_infinity_stays_in_the_url():
    with serving({"/v1/models": INFINITY}) as fake_server:
        assert f"infinity+{fake_server.url}/v1?model=bge" == probe(fake_server.url).spec


def test_a_gateways_prefix_stays_in_the_url():
    with serving({"/team/info": TEI}) as fake_server:
        assert f"{fake_server.url}/team" == probe(f"{fake_server.url}/team").base_url


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("sk-key", "Bearer sk-key"),
        ("Bearer sk-key", "Bearer sk-key"),
        ("authorization: bearer sk-key", "Bearer sk-key"),
        ("Token sk-key", "Token sk-key"),
    ],
)
def test_the_key_is_sent(key, sent):
    with serving(OPEN["tei"][0]) as fake_server:
        probe(fake_server.url, api_key=key)

        assert sent == fake_server.requests[0].headers["Authorization"]


@pytest.mark.parametrize("name", ["cohere", "dashscope", "jina", "siliconflow", "voyage"])
def test_vendors_are_recognised_by_their_host(name):
    hosts = {
        "cohere": "https://api.cohere.com/v2",
        "dashscope": "https://dashscope.aliyuncs.com",
        "jina": "https://api.jina.ai/v1/rerank",
        "siliconflow": "https://api.siliconflow.cn/v1",
        "voyage": "https://api.voyageai.com",
    }

    assert name == probe(hosts[name]).dialect


ODD = [True, -1, 1.5, 10**300, [], {"a": 1}, "", "\x1b[31m", "\u202e", "x" * 100_000]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("dialect", ["tei", "vllm"])
def test_odd_facts_are_none(dialect, odd):
    pages = {
        "/info": TEI | dict.fromkeys(["model_id", "version", "max_input_length"], odd),
        "/v1/models": {"data": [{"id": odd, "owned_by": "vllm", "max_model_len": odd}]},
        "/version": {"version": odd},
    }
    pages["/info"]["max_client_batch_size"] = odd
    if dialect == "vllm":
        del pages["/info"]
    with serving(pages) as fake_server:
        found = probe(fake_server.url)

    assert (dialect, (), None) == (found.dialect, found.models, found.version)
    assert found.max_documents is found.max_length is None


def test_an_odd_kind_of_tei_is_not_quoted():
    kinds = {"\x1b[31m" + "x" * 100_000: {}}
    with (
        serving({"/info": TEI | {"model_type": kinds}}) as fake_server,
        pytest.raises(BackendRejected, match=r"something else, not a reranker") as caught,
    ):
        probe(fake_server.url)

    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_embedding_server_is_rejected_by_its_kind():
    with (
        serving({"/info": TEI | {"model_type": {"embedding": {"pooling": "cls"}}}}) as fake_server,
        pytest.raises(BackendRejected, match="serves embedding, not a reranker"),
    ):
        probe(fake_server.url)


@pytest.mark.parametrize(
    "pages",
    [
        {},
        {"/health": {"up": True}},
        {"/health": EMPTY},
        {"/info": {"model_type": "bert"}, "/v1/models": {"data": [{"owned_by": "openai"}]}},
        {"/info": [], "/v1/models": ["xinference"], "/models": {"data": {"a": 1}}},
        {"/v1/models": {"data": [None, 1, {"id": 1}]}},
        dict.fromkeys(
            ["/info", "/health", "/v1/models"], FakeResponse(b"<html>", content_type="text/html")
        ),
    ],
)
def test_other_servers_are_rejected_with_advice(pages):
    with (
        serving(pages) as fake_server,
        pytest.raises(BackendRejected, match=r"no known rerank server.*Kinds: azure, cohere"),
    ):
        probe(fake_server.url)


def test_a_ban_is_an_authentication_error():
    banned = FakeResponse({"detail": "Too many failed attempts. IP temporarily banned."}, 429)
    with (
        serving({"/info": banned}) as fake_server,
        pytest.raises(AuthenticationError, match="banned"),
    ):
        probe(fake_server.url)


def test_an_unreachable_server_is_unavailable():
    with serving({}) as fake_server:
        url = fake_server.url

    with pytest.raises(BackendUnavailable):
        probe(url)


def test_a_silent_server_times_out():
    with FakeServer(silence) as fake_server, pytest.raises(BackendTimeout):
        probe(fake_server.url, timeout=0.2)


def test_a_wrong_url_is_a_config_error():
    with pytest.raises(ConfigError, match="base_url"):
        probe("gpu:9997")
