"""OpenSearch's BM25, reranked.

    pip install 'rerank-plugins[examples]'
    OPENSEARCH_URL=http://localhost:9200 python examples/retrieval/opensearch_rerank.py [BACKEND]

Needs a running server. For Chinese, use the analyzer "cjk" instead of "english".
"""

import os

from common import BACKEND, DEPTH, english, measure
from opensearchpy import OpenSearch, helpers

from rerank_plugins import rerank

INDEX = "rerank-plugins-recipe"
documents, judged = english()
client = OpenSearch(os.environ.get("OPENSEARCH_URL", "http://localhost:9200"))


def build() -> None:
    """Rebuild the index of the passages."""
    client.indices.delete(index=INDEX, ignore=404)
    mappings = {"properties": {"text": {"type": "text", "analyzer": "english"}}}
    client.indices.create(index=INDEX, body={"mappings": mappings})
    actions = (
        {"_index": INDEX, "_id": name, "_source": {"text": text}}
        for name, text in documents.items()
    )
    helpers.bulk(client, actions, refresh=True)


def search(question: str) -> list[tuple[str, str]]:
    """Find passages by BM25, best first."""
    body = {"query": {"match": {"text": question}}, "size": DEPTH}
    hits = client.search(index=INDEX, body=body)["hits"]["hits"]
    return [(hit["_id"], hit["_source"]["text"]) for hit in hits]


if __name__ == "__main__":
    build()
    measure(search, judged, name="OpenSearch, English")

    question = judged[0][0]
    for item in rerank(question, [text for _, text in search(question)], backend=BACKEND)[:3]:
        print(f"{item.score:.3f}  was {item.index + 1}  {str(item.document)[:70]}…")
