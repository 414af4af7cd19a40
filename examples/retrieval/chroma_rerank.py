"""Chroma as the vector store, reranked, as a LangChain retriever.

    pip install 'rerank-plugins[examples]'
    python examples/retrieval/chroma_rerank.py [BACKEND]

Chroma runs inside this process; to use a server, take chromadb.HttpClient(host="localhost").
"""

import chromadb
from chromadb.config import Settings
from common import BACKEND, DEPTH, embed, english, measure
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from rerank_plugins.langchain import RerankRetriever

documents, judged = english()

client = chromadb.EphemeralClient(Settings(anonymized_telemetry=False))
collection = client.create_collection("passages", configuration={"hnsw": {"space": "cosine"}})
collection.add(
    ids=list(documents),
    documents=list(documents.values()),
    embeddings=embed(documents.values()),
)


class ChromaRetriever(BaseRetriever):
    """Finds passages by the cosine of their vectors."""

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
    ) -> list[Document]:
        result = collection.query(query_embeddings=embed([query], role="query"), n_results=DEPTH)
        return [
            Document(text, id=name)
            for name, text in zip(result["ids"][0], (result["documents"] or [[]])[0], strict=True)
        ]


if __name__ == "__main__":
    measure(ChromaRetriever(), judged, name="Chroma, English")

    question = judged[0][0]
    for document in RerankRetriever(ChromaRetriever(), backend=BACKEND, top_n=3).invoke(question):
        print(f"{document.metadata['relevance_score']:.3f}  {document.page_content[:70]}…")
