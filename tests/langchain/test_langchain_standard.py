"""LangChain's own tests for retrievers."""

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests

from rerank_plugins.langchain import RerankRetriever
from rerank_plugins.testing import FakeBackend


class StandardRetrieverTests(RetrieversIntegrationTests):
    """What LangChain asks of each retriever; here the number of results is called `top_n`."""

    @property
    def retriever_constructor(self):
        return RerankRetriever

    @property
    def retriever_constructor_params(self):
        store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
        store.add_documents([Document(f"panda {n}") for n in range(10)])
        return {
            "retriever": store.as_retriever(search_kwargs={"k": 10}),
            "backend": self.make_backend(),
        }

    @property
    def retriever_query_example(self):
        return "panda"

    @property
    def num_results_arg_name(self):
        return "top_n"


class TestFakeBackend(StandardRetrieverTests):
    def make_backend(self):
        return FakeBackend()


class TestEmbeddedBackend(StandardRetrieverTests):
    def make_backend(self):
        return "embedded"
