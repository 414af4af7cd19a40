"""BM25 in this process (bm25s, then tantivy), reranked.

    pip install 'rerank-plugins[examples]'
    python examples/retrieval/bm25_rerank.py [BACKEND]

bm25s keeps a sparse matrix in memory: the quickest start for up to some millions of passages.
tantivy is a search engine like Lucene: an index on disk, more query types, incremental updates.
"""

import bm25s  # type: ignore[import-untyped]  # it ships no types
import tantivy
from common import DEPTH, english, measure

documents, judged = english()
ids, texts = list(documents), list(documents.values())

# bm25s: the documents as a sparse matrix of token scores.
matrix = bm25s.BM25()
matrix.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)


def by_bm25s(question: str) -> list[tuple[str, str]]:
    """Find the best documents with bm25s, best first."""
    words = bm25s.tokenize(question, stopwords="en", show_progress=False)
    rows, _ = matrix.retrieve(words, k=DEPTH, show_progress=False)
    return [(ids[row], texts[row]) for row in rows[0]]


# tantivy: the same documents in an index, stemmed.
schema = tantivy.SchemaBuilder()
schema.add_text_field("id", stored=True, tokenizer_name="raw")
schema.add_text_field("text", stored=True, tokenizer_name="en_stem")
index = tantivy.Index(schema.build())  # with path=… on disk
writer = index.writer()
for name, text in documents.items():
    writer.add_document(tantivy.Document(id=name, text=text))
writer.commit()
writer.wait_merging_threads()
index.reload()
searcher = index.searcher()


def by_tantivy(question: str) -> list[tuple[str, str]]:
    """Find the best documents with tantivy, best first."""
    words = "".join(letter if letter.isalnum() else " " for letter in question)
    hits = searcher.search(index.parse_query(words, ["text"]), DEPTH).hits
    matches = [searcher.doc(address) for _, address in hits]
    return [(document["id"][0], document["text"][0]) for document in matches]


if __name__ == "__main__":
    measure(by_bm25s, judged, name="bm25s, English")
    measure(by_tantivy, judged, name="tantivy, English")
