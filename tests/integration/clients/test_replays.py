"""Requests of applications that can't run here, as their sources make them, and what they read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

import httpx2 as httpx

from rerank_plugins import rank
from rerank_plugins.testing import FakeBackend
from tests.support.serving import listening

KEY = "a-key-for-tests-0123456789"
QUERY = "what is a panda?"
DOCUMENTS = ["hi", "The giant panda is a bear.", "what a panda is", "大熊猫"]
SCORES = FakeBackend().score(QUERY, DOCUMENTS)
BEST = [(ranked.index, SCORES[ranked.index]) for ranked in rank(SCORES)]
BEARER = {"Authorization": f"Bearer {KEY}"}
JDK = {
    **BEARER,
    "Connection": "Upgrade, HTTP2-Settings",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
}
"""What each HTTP client of a JDK sends at first."""


def results(reply: Any) -> list[tuple[int, float]]:
    """Read a reply as the clients of Cohere, Jina, Xinference and vLLM do."""
    return [(result["index"], result["relevance_score"]) for result in reply["results"]]


def bare_list(reply: Any) -> list[tuple[int, float]]:
    """Read a reply as the clients of TEI do."""
    return [(result["index"], result["score"]) for result in reply]


TOTAL = {"usage.total_tokens": int}
USAGE = {**TOTAL, "usage.prompt_tokens": int}
META_TOKENS = {"meta.tokens.input_tokens": int, "meta.tokens.output_tokens": int}
SEARCH_UNITS = {"meta.billed_units.search_units": int}
TEXT = {"results.0.document.text": str}


@dataclass
class Replay:
    """A request, and what the client reads of the reply."""

    path: str
    body: Mapping[str, Any]
    needs: Mapping[str, type] = field(default_factory=dict)
    """Fields without which the client fails, by their path, with their types."""
    headers: Mapping[str, str] = field(default_factory=lambda: BEARER)
    read: Callable[[Any], list[tuple[int, float]]] = results
    top: int | None = None
    """How many results the client asks for."""


def lists(path: str, needs: Mapping[str, type] | None = None, **fields: Any) -> Replay:
    """Return a request with `documents`."""
    body = {"query": QUERY, "documents": DOCUMENTS, "model": "m", **fields}
    return Replay(path, body, needs or {}, top=fields.get("top_n"))


def texts(path: str, needs: Mapping[str, type] | None = None, **fields: Any) -> Replay:
    """Return a request with `texts`, as TEI takes it."""
    body = {"query": QUERY, "texts": DOCUMENTS, **fields}
    return Replay(path, body, needs or {}, read=bare_list, top=fields.get("top_n"))


def sent_with(replay: Replay, headers: Mapping[str, str]) -> Replay:
    """Return a request with other headers."""
    return Replay(replay.path, replay.body, replay.needs, headers, replay.read, replay.top)


OBJECTS = [{"text": text, "title": "of " + text, "id": 7, "tags": ["a"]} for text in DOCUMENTS]
WHOLE = len(DOCUMENTS)
SILICONFLOW = {"return_documents": False, "max_chunks_per_doc": 1024, "overlap_tokens": 80}

REPLAYS = {
    "Dify LocalAI": lists("/v1/rerank", TEXT, top_n=None, return_documents=True),
    "Dify OpenAI-compatible": lists("/v1/rerank", TEXT, top_n=2, return_documents=True),
    "Dify OpenAI-compatible, slash": lists("//v1/rerank", top_n=WHOLE),
    "Dify Cohere, base with v1": lists("/v1/v2/rerank", top_n=2),
    "Dify Jina, its own model": lists("/v1/rerank", model="jina-reranker-v2-base-multilingual"),
    "Dify TEI": texts("/rerank", truncate=True),
    "Dify OpenRouter": lists("/v1/rerank", TEXT, top_n=3, return_documents=True),
    "Dify Azure": sent_with(lists("/v1/rerank", top_n=2), {"api-key": KEY}),
    "RAGFlow Xinference": lists(
        "/v1/rerank", META_TOKENS | TEXT, return_documents="true", return_len="true"
    ),
    "RAGFlow SILICONFLOW": lists("/v1/rerank", META_TOKENS, top_n=WHOLE, **SILICONFLOW),
    "RAGFlow Jina": lists("/v1/rerank", TOTAL, top_n=WHOLE),
    "RAGFlow LocalAI": lists("/rerank", TOTAL, top_n=WHOLE),
    "RAGFlow OpenAI-API": lists("/v1/rerank", TOTAL, top_n=WHOLE),
    "RAGFlow Cohere, base with v1": lists("/v1/v1/rerank", top_n=WHOLE, return_documents=False),
    "RAGFlow HuggingFace": texts("/rerank", raw_scores=False, truncate=True),
    "RAGFlow in Go": lists("/v1/rerank", top_n=WHOLE, return_documents=False),
    "Open WebUI": sent_with(
        lists("/v1/rerank", top_n=WHOLE), {**BEARER, "X-OpenWebUI-User-Name": "%E5%A4%A7%E7%86%8A"}
    ),
    "FastGPT": lists("/v1/rerank", META_TOKENS),
    "MaxKB siliconCloud": lists("/v1/rerank", TEXT, top_n=3, return_documents=True),
    "LiteLLM cohere, base with v1": lists("/v1/v1/rerank", SEARCH_UNITS, top_n=2),
    "LiteLLM cohere, base with rerank": lists("/rerank/v1/rerank", SEARCH_UNITS, top_n=2),
    "LiteLLM jina_ai": lists("/v1/rerank", TOTAL, top_n=2, return_documents=None),
    "LiteLLM hosted_vllm": lists(
        "/v1/rerank", TOTAL, documents=OBJECTS, rank_fields=["text"], max_chunks_per_doc=10
    ),
    "LiteLLM huggingface": texts(
        "/rerank", {"0.text": str}, raw_scores=False, return_text=True, truncate=False
    ),
    "Haystack JinaRanker": lists("/v1/rerank", {"usage": dict, "model": str}, top_n=2),
    "Haystack VLLMRanker": lists("/v1/rerank", USAGE, top_n=3),
    "Haystack TEI": texts("/rerank", raw_scores=False),
    "LangChain4j Cohere": sent_with(lists("/v1/rerank", SEARCH_UNITS), JDK),
    "LangChain4j Jina": sent_with(
        lists("/v1/rerank", USAGE, return_documents=False, top_n=None), JDK
    ),
    "Cohere 4.57": lists("/v1/rerank", top_n=None, max_chunks_per_doc=10, return_documents=False),
    "Cohere 5.5.8": lists("/rerank", max_chunks_per_doc=10, rank_fields=["text"]),
    "Cohere, documents with more keys": lists("/v1/rerank", documents=OBJECTS, top_n=2),
    "Cohere, maxChunksPerDoc of JavaScript": lists("/v1/rerank", max_chunks_per_doc=10, top_n=2),
    "Cohere V2, base with v1": lists("/v1/v2/rerank", top_n=2, priority=0),
    "Vercel AI SDK": lists("/v2/rerank", top_n=2, max_tokens_per_doc=4096, priority=1),
    "Vercel AI SDK, bare": lists("/rerank", top_n=2),
    "xinference-client, lengths": lists(
        "/v1/rerank",
        META_TOKENS,
        return_len=True,
        return_documents=None,
        max_chunks_per_doc=10,
        kwargs="{}",
    ),
    "LangChain JinaRerank": lists("/v1/rerank", top_n=3),
    "LlamaIndex JinaRerank": lists("/v1/rerank", top_n=2),
    "LlamaIndex SiliconFlowRerank": lists("/v1/rerank", top_n=2, **SILICONFLOW),
    "rerankers cohere": lists("/v1/rerank", top_n=WHOLE, return_documents=False),
    "rerankers TEI": texts("/rerank", {"0.text": str}, top_n=WHOLE, return_text=True, model="m"),
    "LightRAG": lists("/v1/rerank", top_n=2, return_documents=True, max_tokens_per_doc=None),
    "LibreChat": lists(
        "/v1/rerank",
        TEXT,
        model="jina-reranker-v2-base-multilingual",
        top_n=2,
        return_documents=True,
    ),
    "xinference-client, an empty instruction": lists("/v1/rerank", instruction=""),
    "Milvus vllm": sent_with(
        lists("/v1/rerank", truncate_prompt_tokens=512), {"Authorization": f"bearer {KEY}"}
    ),
    "Milvus TEI": texts("/rerank", truncate=False, truncation_direction="Right"),
    "Milvus Cohere": lists("/v2/rerank", max_tokens_per_doc=4096, top_n=WHOLE),
    "Weaviate Cohere": lists("/v1/rerank", return_documents=False),
    "Elasticsearch hugging_face": texts("/rerank", {"0.text": str}, top_n=2, return_text=True),
    "Elasticsearch Cohere": lists("/v2/rerank", max_chunks_per_doc=5, top_n=2),
    "OpenSearch Cohere": lists("/v1/rerank", top_n=WHOLE),
    "Continue TEI": texts(
        "/rerank", return_text=False, raw_scores=False, truncation_direction="Right", truncate=True
    ),
    "Cherry Studio": lists("/v1/rerank", top_n=2),
    "Cherry Studio TEI": texts("/rerank", {"0.text": str}, return_text=True),
    "Cherry Studio TEI, without the slash": texts("/v1/rerank", {"0.text": str}, return_text=True),
    "Cohere v1, other fields": lists(
        "/v1/rerank", documents=OBJECTS, rank_fields=["title", "text"]
    ),
    "n8n": lists("/v1/rerank", TEXT, top_n=2, return_documents=True),
}


@pytest.fixture(scope="module")
def url():
    """A server that wants a key, and takes any name of a model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RERANK_TEST_KEYS", f"tests:{KEY}")
        with listening(
            FakeBackend(), api_keys_env="RERANK_TEST_KEYS", model_names=("*",)
        ) as url:  # fmt: skip
            yield url


@pytest.fixture(scope="module")
def unscaled():
    """A server of a backend whose scores are of an unknown scale, which repeats documents."""
    with listening(FakeBackend(scale="unknown"), return_documents=True) as url:
        yield url


def at(reply, path):
    """Return the value at a path such as `results.0.document`."""
    for name in path.split("."):
        reply = reply[int(name) if name.isdecimal() else name]
    return reply


@pytest.fixture(scope="module")
def http():
    with httpx.Client() as http:
        yield http


def post(http, url, replay, **fields):
    body = {**replay.body, **fields}
    reply = http.post(url + replay.path, json=body, headers=dict(replay.headers))
    assert 200 == reply.status_code, reply.text
    return reply.json()


@pytest.mark.parametrize("name", REPLAYS)
def test_an_application_reads_what_it_expects(http, url, name):
    replay = REPLAYS[name]
    reply = post(http, url, replay)

    assert replay.read(reply) == BEST[: replay.top]
    for path, kind in replay.needs.items():
        assert isinstance(at(reply, path), kind), path
        assert not isinstance(at(reply, path), bool), path


@pytest.mark.parametrize("name", [name for name, each in REPLAYS.items() if each.read is bare_list])
def test_clients_of_tei_are_served_on_an_unknown_scale_too(http, unscaled, name):
    """They always send `raw_scores: false`, TEI's default; some can't send a key."""
    replay = sent_with(REPLAYS[name], {})

    assert replay.read(post(http, unscaled, replay)) == BEST[: replay.top]


@pytest.mark.parametrize("name", ["FastGPT", "Haystack VLLMRanker", "Open WebUI"])
def test_clients_of_vllm_get_documents_by_a_setting(http, unscaled, name):
    """MaxKB reads `document.text` without asking for it, since vLLM always sends it."""
    replay = sent_with(REPLAYS[name], {})
    reply = post(http, unscaled, replay, model="fake")

    texts = [result["document"]["text"] for result in reply["results"]]
    assert [DOCUMENTS[index] for index, _ in BEST[: replay.top]] == texts


def test_dify_reads_the_limits_of_a_server_that_knows_no_length(http, unscaled):
    info = http.get(f"{unscaled}/info").json()

    assert ["reranker"] == list(info["model_type"])
    assert (512, 1000) == itemgetter("max_input_length", "max_client_batch_size")(info)


@pytest.mark.parametrize("path", ["/v1/cluster/auth", "//v1/cluster/auth"])
def test_xinferences_client_finds_out_whether_there_are_keys(http, url, path):
    """MaxKB's base URL may end with a slash."""
    assert {"auth": True} == http.get(url + path).json()


UNCLAIMED = {
    "Voyage": ("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "truncation": True}, 200),
    "NVIDIA": ("/v1/ranking", {"query": {"text": QUERY}, "passages": []}, 404),
    "Mixedbread": ("/v1/reranking", {"query": QUERY, "input": DOCUMENTS}, 422),
    "Ollama": ("/api/rerank", {"query": QUERY, "documents": DOCUMENTS}, 404),
    "QAnything": ("/rerank", {"query": QUERY, "passages": DOCUMENTS}, 422),
    "TEI of the left side": (
        "/rerank",
        {"query": QUERY, "texts": DOCUMENTS, "truncation_direction": "Left"},
        422,
    ),
    "an instruction of vLLM": (
        "/v1/rerank",
        {"query": QUERY, "documents": DOCUMENTS, "instruction": "find bears"},
        422,
    ),
}


@pytest.mark.parametrize("name", UNCLAIMED)
def test_other_protocols_are_told_what_is_missing(http, unscaled, name):
    path, body, status = UNCLAIMED[name]
    reply = http.post(unscaled + path, json=body)

    assert status == reply.status_code, reply.text
    if status == 404:
        assert "POST /v1/rerank" in reply.json()["message"]
    if status == 422:
        assert any(word in reply.json()["message"] for word in ("documents", "trunc", "instruc"))
