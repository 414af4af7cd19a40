"""A LlamaIndex query engine over 70 research abstracts, with and without reranking.

    pip install 'rerank-plugins[llama-index]'
    python examples/llama_index_query_engine.py

It runs offline, with two stand-ins. For real use, replace `HashedWords()` with your embedding model
and `MockLLM()` with your LLM.
"""

import json
import re
import zlib
from pathlib import Path

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore

from rerank_plugins.llama_index import RerankPostprocessor

# The reranker: the model in the package. For a cross-encoder on this machine, write
# "local:BAAI/bge-reranker-v2-m3"; for one on a server, "xinference+http://gpu:9997?model=UID".
BACKEND = "embedded"

QUESTION = "Does lunar position influence the time of delivery?"
DATA = Path(__file__).parent / "data" / "abstracts.jsonl"


class HashedWords(BaseEmbedding):
    """A stand-in for an embedding model: counts words in slots chosen by their hash."""

    def _get_text_embedding(self, text: str) -> list[float]:
        vector = [0.0] * 256
        for word in re.findall(r"\w{4,}", text.lower()):
            vector[zlib.crc32(word.encode()) % len(vector)] += 1.0
        return vector

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def mean_reciprocal_rank(rankings: list[list[NodeWithScore]], answers: list[str]) -> float:
    """Return the mean of 1/rank of the right documents; a missing one counts as 0."""
    total = 0.0
    for nodes, answer in zip(rankings, answers, strict=True):
        ids = [item.node.ref_doc_id for item in nodes]
        total += 1 / (ids.index(answer) + 1) if answer in ids else 0.0
    return total / len(answers)


def main() -> None:
    """Ask one question; then measure, over ten, how much reranking helps."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    index = VectorStoreIndex.from_documents(
        [Document(text=row["abstract"], id_=row["id"]) for row in rows],
        embed_model=HashedWords(),
    )
    reranker = RerankPostprocessor(backend=BACKEND, top_n=3)
    retriever = index.as_retriever(similarity_top_k=30)
    engine = RetrieverQueryEngine.from_args(
        retriever,
        llm=MockLLM(max_tokens=8),  # replace it with a real one, such as OpenAI(model=…)
        node_postprocessors=[reranker],
    )

    response = engine.query(QUESTION)
    print(QUESTION)
    for rank, item in enumerate(response.source_nodes, 1):
        before = item.metadata["retriever_rank"]
        print(f"{rank}. (was {before})  {item.score:.3f}  {item.get_content()[:60]}…")

    sample = rows[::7]
    retrieved = [retriever.retrieve(row["question"]) for row in sample]
    reranked = [
        reranker.postprocess_nodes(nodes, query_str=row["question"])
        for nodes, row in zip(retrieved, sample, strict=True)
    ]
    answers = [row["id"] for row in sample]
    print(f"\nmean reciprocal rank of the right abstract, {len(sample)} questions")
    print(f"  as retrieved  {mean_reciprocal_rank(retrieved, answers):.3f}")
    print(
        f"  reranked      {mean_reciprocal_rank(reranked, answers):.3f}  by {reranker.backend.name}"
    )


if __name__ == "__main__":
    main()
