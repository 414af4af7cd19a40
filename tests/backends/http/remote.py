"""Shared by the tests of the HTTP backend: one query, its scores, and a backend."""

from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.testing import word_overlap

QUERY = "what is a panda?"
DOCUMENTS = ["hi", "The giant panda is a bear species endemic to China."]
EXPECTED = [word_overlap(QUERY, document) for document in DOCUMENTS]
GOOD = {
    "results": [{"index": i, "relevance_score": EXPECTED[i]} for i in (1, 0)],
    "meta": {"warnings": None},
}


def results(*scores):
    return {"results": [{"index": i, "score": score} for i, score in enumerate(scores)]}


def make(fake_server, dialect="xinference", **options):
    if DIALECTS[dialect].needs_model:
        options.setdefault("model", "m")
    base_url = None if "endpoints" in options else fake_server.url
    return HTTPBackend(base_url, dialect=dialect, **options)
