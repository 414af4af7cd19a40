"""Elasticsearch's BM25, reranked, as a LangChain retriever over Chinese paragraphs.

    pip install 'rerank-plugins[examples]'
    export ELASTICSEARCH_URL=http://localhost:9200
    python examples/retrieval/elasticsearch_rerank.py [BACKEND]

Needs a running server. For English, use the analyzer "english" instead of "cjk".
"""

import os

from common import BACKEND, DEPTH, chinese, measure
from elasticsearch import Elasticsearch, helpers
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from rerank_plugins.langchain import RerankRetriever

INDEX = "rerank-plugins-recipe"
documents, judged = chinese()
client = Elasticsearch(os.environ.get("ELASTICSEARCH_URL", "http://localhost:9200"))


def build() -> None:
    """Rebuild the index; the analyzer `cjk` splits Chinese into character bigrams."""
    client.options(ignore_status=404).indices.delete(index=INDEX)
    client.indices.create(
        index=INDEX, mappings={"properties": {"text": {"type": "text", "analyzer": "cjk"}}}
    )
    actions = (
        {"_index": INDEX, "_id": name, "_source": {"text": text}}
        for name, text in documents.items()
    )
    helpers.bulk(client, actions, refresh=True)


class ElasticsearchRetriever(BaseRetriever):
    """Finds paragraphs by BM25."""

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
    ) -> list[Document]:
        response = client.search(index=INDEX, query={"match": {"text": query}}, size=DEPTH)
        hits = response["hits"]["hits"]
        return [Document(hit["_source"]["text"], id=hit["_id"]) for hit in hits]


if __name__ == "__main__":
    build()
    measure(ElasticsearchRetriever(), judged, name="Elasticsearch, Chinese")

    question = judged[0][0]
    retriever = RerankRetriever(ElasticsearchRetriever(), backend=BACKEND, top_n=3)
    print(question)
    for document in retriever.invoke(question):
        print(f"{document.metadata['relevance_score']:.3f}  {document.page_content[:40]}…")
