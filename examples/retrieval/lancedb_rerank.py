"""LanceDB as vector store and full-text index, reranked.

    pip install 'rerank-plugins[examples]'
    python examples/retrieval/lancedb_rerank.py [BACKEND]

A LanceDB database is a folder, here or in an object store: lancedb.connect("s3://bucket/path").
"""

from tempfile import TemporaryDirectory
from typing import Any

import lancedb
from common import BACKEND, DEPTH, embed, english, measure
from lancedb.index import FTS

from rerank_plugins import rerank

documents, judged = english()


def main(folder: str) -> None:
    """Search by vectors and by full text, and rerank the results of both."""
    rows = [
        {"id": name, "text": text, "vector": vector}
        for (name, text), vector in zip(
            documents.items(), embed(documents.values()).tolist(), strict=True
        )
    ]
    table = lancedb.connect(folder).create_table("passages", rows)
    table.create_index("text", config=FTS())

    def by_vectors(question: str) -> list[tuple[str, str]]:
        vector = embed([question], role="query")[0]
        query: Any = table.search(vector)  # its type depends on what is searched
        query = query.distance_type("cosine").limit(DEPTH)
        return [(row["id"], row["text"]) for row in query.to_list()]

    def by_words(question: str) -> list[tuple[str, str]]:
        query = table.search(question, query_type="fts").limit(DEPTH)
        return [(row["id"], row["text"]) for row in query.to_list()]

    measure(by_vectors, judged, name="LanceDB, vectors, English")
    measure(by_words, judged, name="LanceDB, full text, English")

    question = judged[0][0]
    for item in rerank(question, [text for _, text in by_vectors(question)], backend=BACKEND)[:3]:
        print(f"{item.score:.3f}  was {item.index + 1}  {str(item.document)[:70]}…")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(folder)
