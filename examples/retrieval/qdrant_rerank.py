"""Qdrant as the vector store, reranked, as a LlamaIndex retriever and node postprocessor.

    pip install 'rerank-plugins[examples]'
    python examples/retrieval/qdrant_rerank.py [BACKEND]

Qdrant runs inside this process; to use a server, take QdrantClient(url="http://localhost:6333").
"""

from common import BACKEND, DEPTH, embed, english, measure
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from rerank_plugins.llama_index import RerankPostprocessor

documents, judged = english()
vectors = embed(documents.values())

client = QdrantClient(":memory:")
client.create_collection("passages", VectorParams(size=vectors.shape[1], distance=Distance.COSINE))
client.upsert(
    "passages",
    [
        PointStruct(id=number, vector=vector.tolist(), payload={"id": name, "text": text})
        for number, (vector, (name, text)) in enumerate(
            zip(vectors, documents.items(), strict=True)
        )
    ],
)


class QdrantRetriever(BaseRetriever):
    """Finds passages by the cosine of their vectors."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        vector = embed([query_bundle.query_str], role="query")[0].tolist()
        points = client.query_points("passages", query=vector, limit=DEPTH).points
        payloads = [(point.payload or {}, point.score) for point in points]
        return [
            NodeWithScore(node=TextNode(id_=payload["id"], text=payload["text"]), score=score)
            for payload, score in payloads
        ]


if __name__ == "__main__":
    retriever = QdrantRetriever()
    measure(retriever, judged, name="Qdrant, English")

    # In a query engine this postprocessor runs after the retriever.
    question = judged[0][0]
    postprocessor = RerankPostprocessor(backend=BACKEND, top_n=3)
    for item in postprocessor.postprocess_nodes(retriever.retrieve(question), query_str=question):
        print(f"{item.score:.3f}  {item.get_content()[:70]}…")
