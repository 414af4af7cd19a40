"""A LangChain RAG chain over 200 research abstracts, with and without reranking.

    pip install 'rerank-plugins[langchain]'
    python examples/langchain_rag.py

It runs offline. To use it for real, put your embedding model and your LLM where the two stand-ins
are: `HashedWords()` and `FakeListChatModel(…)`.
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

# What scores: the model in the package. To swap it for any cross-encoder on this machine, write
# "local:BAAI/bge-reranker-v2-m3"; on a server, "xinference+http://gpu:9997?model=UID".
BACKEND = "embedded"

DATA = Path(__file__).parent / "data" / "pubmedqa.jsonl"
PROMPT = "Answer the question from these abstracts alone.\n\n{abstracts}\n\nQuestion: {question}"


class HashedWords(Embeddings):
    """Stands in for an embedding model: counts words, each in the slot of its hash."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        vector = [0.0] * 256
        for word in re.findall(r"\w{4,}", text.lower()):
            vector[zlib.crc32(word.encode()) % len(vector)] += 1.0
        return vector


def joined(documents: list[Document]) -> str:
    """Write the documents as the prompt shows them; their metadata stays out of it."""
    return "\n\n".join(f"[{document.id}] {document.page_content}" for document in documents)


def main() -> None:
    """Answer one question, then count over twenty how often the right abstract comes first."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    store = InMemoryVectorStore(HashedWords())
    store.add_documents([Document(row["abstract"], id=row["id"]) for row in rows])

    found = store.as_retriever(search_kwargs={"k": 30})
    retriever = RerankRetriever(found, backend=BACKEND, top_n=3)
    # A real one: `langchain_anthropic.ChatAnthropic` and its model's name, in place of this.
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
    for place, document in enumerate(result["documents"], 1):
        was, score = (document.metadata[key] for key in ("retriever_rank", "relevance_score"))
        print(f"{place}. (was {was})  {score:.3f}  {document.page_content[:60]}…")
    print(result["answer"])

    sample = rows[::10]
    questions = [row["question"] for row in sample]
    print(f"\nright abstract in first place, of {len(sample)} questions")
    for name, ranked in ("as retrieved", found), ("reranked", retriever):
        firsts = [documents[0].id for documents in ranked.batch(questions)]
        right = sum(first == row["id"] for first, row in zip(firsts, sample, strict=True))
        print(f"  {name:12}  {right}")


if __name__ == "__main__":
    main()
