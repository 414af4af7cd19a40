"""Existing clients work with our server unchanged: ours, Cohere's, Xinference's, the adapters."""

import gc
import math

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import AuthenticationError, load_backend, rank
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.testing import BackendContract, FakeBackend
from tests.support.serving import listening

KEY = "a-key-for-tests-0123456789"
QUERY = "what is a panda?"
DOCUMENTS = ["hi", "The giant panda is a bear.", "what a panda is", "大熊猫"]
SCORES = FakeBackend().score(QUERY, DOCUMENTS)
BEST = [ranked.index for ranked in rank(SCORES)]

# What the packages of others warn of, or leave open, is theirs to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


others = pytest.mark.usefixtures("left_behind")
"""For the clients of others."""


@pytest.fixture
def left_behind():
    """Collect what clients leave open within the test that they are in, not in a later one."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def keyed():
    """A server that wants a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RERANK_TEST_KEYS", f"tests:{KEY}")
        with listening(
            FakeBackend(), api_keys_env="RERANK_TEST_KEYS", model_names=("fake", "other")
        ) as url:
            yield url


@pytest.fixture(scope="module")
def roomy():
    """A server that takes the contract's longest document, of a megabyte."""
    with listening(FakeBackend(), document_characters=2_000_000, model_names=("fake",)) as url:
        yield url


@pytest.fixture(params=["cohere", "infinity", "jina", "rerank", "tei", "vllm", "xinference"])
def dialect(request):
    return request.param


class TestContract(BackendContract):
    """The contract holds for each of our dialects with our server behind it."""

    @pytest.fixture(autouse=True)
    def where(self, roomy, dialect, monkeypatch):
        self.options = {"dialect": dialect, "model": "fake"}
        if HTTPBackend(roomy, **self.options).scale == "unknown":
            self.options["server_scale"] = "probability"
        if dialect in ("cohere", "jina"):
            monkeypatch.setenv(f"{dialect.upper()}_API_KEY", KEY)
        self.url = roomy

    def make_backend(self):
        return HTTPBackend(self.url, **self.options)


def test_every_dialect_returns_the_servers_scores(keyed, dialect, monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY)
    spec = f"{dialect}+{keyed}?model=fake&api_key_env=THE_KEY"
    with load_backend(spec) as backend:
        scores = backend.score(QUERY, DOCUMENTS)

    assert pytest.approx(SCORES) == list(scores)
    assert scores.usage is None  # the server's estimates are no counts


def test_a_wrong_key_is_an_authentication_error(keyed, dialect, monkeypatch):
    monkeypatch.setenv("THE_KEY", "another-key-0123456789")
    spec = f"{dialect}+{keyed}?model=fake&api_key_env=THE_KEY"
    with load_backend(spec) as backend, pytest.raises(AuthenticationError) as caught:
        backend.score(QUERY, DOCUMENTS)

    assert "another-key" not in str(caught.value)


def test_our_adapters_rank_by_the_servers_scores(keyed, monkeypatch):
    langchain = pytest.importorskip("rerank_plugins.langchain")
    llama_index = pytest.importorskip("rerank_plugins.llama_index")
    documents = pytest.importorskip("langchain_core.documents")
    schema = pytest.importorskip("llama_index.core.schema")
    monkeypatch.setenv("XINFERENCE_API_KEY", KEY)
    spec = f"xinference+{keyed}?model=fake&server_scale=probability"
    ranked = langchain.RerankCompressor(spec, top_n=2, min_score=0.1).compress_documents(
        [documents.Document(text) for text in DOCUMENTS], QUERY
    )
    nodes = llama_index.RerankPostprocessor(spec, top_n=2).postprocess_nodes(
        [schema.NodeWithScore(node=schema.TextNode(text=text)) for text in DOCUMENTS],
        query_str=QUERY,
    )

    assert [DOCUMENTS[index] for index in BEST[:2]] == [each.page_content for each in ranked]
    assert [DOCUMENTS[index] for index in BEST[:2]] == [each.node.get_content() for each in nodes]
    assert pytest.approx([SCORES[index] for index in BEST[:2]]) == [each.score for each in nodes]


@others
@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_the_cohere_sdk(keyed, version):
    cohere = pytest.importorskip("cohere", reason="needs `[dev]`")
    client = getattr(cohere, version)(api_key=KEY, base_url=keyed)
    reply = client.rerank(model="fake", query=QUERY, documents=DOCUMENTS, top_n=3)

    assert BEST[:3] == [result.index for result in reply.results]
    expected = [SCORES[index] for index in BEST[:3]]
    assert pytest.approx(expected) == [result.relevance_score for result in reply.results]


@others
def test_the_cohere_sdk_with_more_than_we_honour(keyed):
    cohere = pytest.importorskip("cohere", reason="needs `[dev]`")
    client = cohere.Client(api_key=KEY, base_url=keyed)
    reply = client.rerank(
        model="fake",
        query=QUERY,
        documents=[{"text": text, "title": "a title", "page": "7"} for text in DOCUMENTS],
        rank_fields=["text"],
        max_chunks_per_doc=10,
        return_documents=True,
    )

    assert BEST == [result.index for result in reply.results]
    assert DOCUMENTS[BEST[0]] == reply.results[0].document.text
    assert 1 == reply.meta.billed_units.search_units
    assert reply.meta.tokens.input_tokens > 0


@others
@pytest.mark.parametrize("part", ["", "/v1", "/v2", "/"])
@pytest.mark.parametrize("version", ["Client", "ClientV2"])
def test_the_cohere_sdk_with_parts_of_the_path_in_its_base_url(keyed, version, part):
    cohere = pytest.importorskip("cohere", reason="needs `[dev]`")
    client = getattr(cohere, version)(api_key=KEY, base_url=keyed + part)
    reply = client.rerank(model="fake", query=QUERY, documents=DOCUMENTS)

    assert BEST == [result.index for result in reply.results]


@others
def test_the_cohere_sdk_understands_a_refusal(keyed):
    cohere = pytest.importorskip("cohere", reason="needs `[dev]`")
    client = cohere.ClientV2(api_key="another-key-0123456789", base_url=keyed)

    with pytest.raises(cohere.UnauthorizedError):
        client.rerank(model="fake", query=QUERY, documents=DOCUMENTS)


@others
async def test_the_async_cohere_sdk(keyed):
    cohere = pytest.importorskip("cohere", reason="needs `[dev]`")
    client = cohere.AsyncClientV2(api_key=KEY, base_url=keyed)
    reply = await client.rerank(model="fake", query=QUERY, documents=DOCUMENTS)

    assert BEST == [result.index for result in reply.results]


@others
def test_xinferences_own_client(keyed):
    xinference = pytest.importorskip("xinference_client", reason="needs `[dev]`")
    client = xinference.RESTfulClient(keyed, api_key=KEY)
    model = client.get_model("fake")
    reply = model.rerank(DOCUMENTS, QUERY, top_n=3, return_documents=True)

    assert BEST[:3] == [result["index"] for result in reply["results"]]
    texts = [result["document"]["text"] for result in reply["results"]]
    assert [DOCUMENTS[index] for index in BEST[:3]] == texts
    assert all(math.isfinite(result["relevance_score"]) for result in reply["results"])


@others
def test_xinferences_own_client_with_more_than_we_honour(keyed):
    xinference = pytest.importorskip("xinference_client", reason="needs `[dev]`")
    model = xinference.RESTfulClient(f"{keyed}/", api_key=KEY).get_model("fake")
    reply = model.rerank(DOCUMENTS, QUERY, max_chunks_per_doc=10, return_len=True)

    assert BEST == [result["index"] for result in reply["results"]]
    assert reply["meta"]["tokens"]["input_tokens"] > 0
    with pytest.raises(RuntimeError, match="follow instructions"):
        model.rerank(DOCUMENTS, QUERY, instruction="find bears")


@others
def test_langchains_integration_of_cohere(keyed):
    integration = pytest.importorskip("langchain_cohere", reason="needs `[dev]`")
    documents = pytest.importorskip("langchain_core.documents")
    compressor = integration.CohereRerank(cohere_api_key=KEY, base_url=keyed, model="fake", top_n=2)
    ranked = compressor.compress_documents([documents.Document(text) for text in DOCUMENTS], QUERY)

    assert [DOCUMENTS[index] for index in BEST[:2]] == [each.page_content for each in ranked]


def llama_index_reranker(name, url):
    """Return an integration of LlamaIndex that calls the server at `url`."""
    module = f"llama_index.postprocessor.{name}_rerank"
    integration = pytest.importorskip(module, reason="needs `[dev]`")
    if name == "cohere":
        return integration.CohereRerank(api_key=KEY, base_url=url, model="fake", top_n=2)
    if name == "tei":
        return integration.TextEmbeddingInference(
            base_url=url, top_n=2, model_name="fake", auth_token=f"Bearer {KEY}"
        )
    return integration.XinferenceRerank(base_url=url, model="fake", top_n=2)


@others
@pytest.mark.parametrize("name", ["cohere", "tei", "xinference"])
def test_llama_indexes_integrations(keyed, roomy, name):
    schema = pytest.importorskip("llama_index.core.schema")
    url = roomy if name == "xinference" else keyed  # it can't send a key
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text), score=0.0) for text in DOCUMENTS]
    ranked = llama_index_reranker(name, url).postprocess_nodes(nodes, query_str=QUERY)

    assert [DOCUMENTS[index] for index in BEST[:2]] == [each.node.get_content() for each in ranked]
    assert pytest.approx([SCORES[index] for index in BEST[:2]]) == [each.score for each in ranked]
