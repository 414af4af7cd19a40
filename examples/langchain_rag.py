"""A LangChain RAG chain over 70 research abstracts, with and without reranking.

    pip install 'rerank-plugins[langchain]'
    python examples/langchain_rag.py

It runs offline, with two stand-ins. For real use, replace `HashedWords()` with your embedding model
and `FakeListChatModel(…)` with your LLM.
"""

import json
import re
import zlib
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from rerank_plugins.langchain import RerankRetriever

# The reranker: the model in the package. For a cross-encoder on this machine, write
# "local:BAAI/bge-reranker-v2-m3"; for one on a server, "xinference+http://gpu:9997?model=UID".
BACKEND = "embedded"

DATA = Path(__file__).parent / "data" / "abstracts.jsonl"
PROMPT = "Answer the question from these abstracts alone.\n\n{abstracts}\n\nQuestion: {question}"


class HashedWords(Embeddings):
    """A stand-in for an embedding model: counts words in slots chosen by their hash."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        vector = [0.0] * 256
        for word in re.findall(r"\w{4,}", text.lower()):
            vector[zlib.crc32(word.encode()) % len(vector)] += 1.0
        return vector


def joined(documents: list[Document]) -> str:
    """Return the documents as one text for the prompt, without their metadata."""
    return "\n\n".join(f"[{document.id}] {document.page_content}" for document in documents)


def main() -> None:
    """Answer one question; then count, over ten, how often the right abstract ranks first."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    store = InMemoryVectorStore(HashedWords())
    store.add_documents([Document(row["abstract"], id=row["id"]) for row in rows])

    first_stage = store.as_retriever(search_kwargs={"k": 30})
    retriever = RerankRetriever(first_stage, backend=BACKEND, top_n=3)
    # Replace this with a real model, such as `langchain_anthropic.ChatAnthropic(model=…)`.
    model = FakeListChatModel(responses=["(here your model answers)"])
    answer = (
        {"abstracts": lambda state: joined(state["documents"]), "question": lambda s: s["question"]}
        | ChatPromptTemplate.from_template(PROMPT)
        | model
        | StrOutputParser()
    )
    chain = RunnableParallel(documents=retriever, question=RunnablePassthrough()).assign(
        answer=answer
    )

    result = chain.invoke(rows[0]["question"])
    print(result["question"])
    for rank, document in enumerate(result["documents"], 1):
        before, score = (document.metadata[key] for key in ("retriever_rank", "relevance_score"))
        print(f"{rank}. (was {before})  {score:.3f}  {document.page_content[:60]}…")
    print(result["answer"])

    sample = rows[::7]
    questions = [row["question"] for row in sample]
    print(f"\nright abstract in first place, of {len(sample)} questions")
    for name, ranker in ("as retrieved", first_stage), ("reranked", retriever):
        best_ids = [documents[0].id for documents in ranker.batch(questions)]
        right = sum(best == row["id"] for best, row in zip(best_ids, sample, strict=True))
        print(f"  {name:12}  {right}")


if __name__ == "__main__":
    main()
