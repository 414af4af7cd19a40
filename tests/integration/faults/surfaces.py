"""The six ways to rerank: the bare backend, LangChain and LlamaIndex, each sync and async."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import traceback

import pytest

from rerank_plugins import load_backend, rank
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.testing import word_overlap
from rerank_plugins.wrappers.retry import RetryingBackend

QUERY = "where does the giant panda live?"
TEXTS = ["hi there, stranger", "the giant panda does live in China", "Paris is in France"]
KEY = "sk-never-to-be-told-4242"  # made up
ATTEMPTS = 3
TOLERANCE = float(os.environ.get("RERANK_TEST_TOLERANCE", "5"))
"""Seconds by which a call may end after its deadline; 0.2 is the goal on a quiet machine."""

RANKED = [
    (TEXTS[item.index], item.score) for item in rank([word_overlap(QUERY, text) for text in TEXTS])
]
"""The result of a healthy server: texts and scores, best first."""


class Surface:
    """A backend behind one of the interfaces, called synchronously or asynchronously."""

    def __init__(self, name, mode):
        self.name, self.mode = name, mode

    def ask(self, backend, texts=TEXTS, *, query=QUERY, on_error="raise"):
        """Return (text, score, status) of each document returned, in order."""
        if self.mode == "sync":
            return self.sync(backend, texts, query=query, on_error=on_error)

        async def main():
            try:
                return await self.in_loop(backend, texts, query=query, on_error=on_error)
            finally:
                await backend.aclose()

        return asyncio.run(main())

    def sync(self, backend, texts=TEXTS, *, query=QUERY, on_error="raise"):
        if self.name == "bare":
            return _ranked(texts, backend.score(query, texts))
        reranker, inputs, read = self._adapter(backend, texts, on_error)
        if self.name == "langchain":
            return read(reranker.compress_documents(inputs, query))
        return read(reranker.postprocess_nodes(inputs, query_str=query))

    async def in_loop(self, backend, texts=TEXTS, *, query=QUERY, on_error="raise"):
        if self.name == "bare":
            return _ranked(texts, await backend.ascore(query, texts))
        reranker, inputs, read = self._adapter(backend, texts, on_error)
        if self.name == "langchain":
            return read(await reranker.acompress_documents(inputs, query))
        return read(await reranker.apostprocess_nodes(inputs, query_str=query))

    def _adapter(self, backend, texts, on_error):
        settings = {"backend": backend, "top_n": None, "on_error": on_error}
        return (_langchain if self.name == "langchain" else _llama_index)(texts, settings)


def _ranked(texts, scores):
    return [(texts[item.index], item.score, None) for item in rank(scores)]


def _langchain(texts, settings):
    from langchain_core.documents import Document  # noqa: PLC0415 - may be missing

    from rerank_plugins.langchain import RerankCompressor  # noqa: PLC0415 - may be missing

    def read(ranked):
        pairs = [(d.page_content, d.metadata) for d in ranked]
        return [(t, m.get("relevance_score"), m.get("rerank_status")) for t, m in pairs]

    return RerankCompressor(**settings), [Document(page_content=text) for text in texts], read


def _llama_index(texts, settings):
    from llama_index.core.schema import NodeWithScore, TextNode  # noqa: PLC0415 - may be missing

    from rerank_plugins.llama_index import RerankPostprocessor  # noqa: PLC0415 - may be missing

    def read(ranked):
        return [(n.node.text, n.score, n.node.metadata.get("rerank_status")) for n in ranked]

    nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
    return RerankPostprocessor(**settings), nodes, read


def surfaces(*names, modes=("sync", "async")):
    """Return pytest parameters: each interface in each mode; without its framework, skipped."""
    modules = {"langchain": "langchain_core", "llama_index": "llama_index.core"}
    parameters = []
    for name in names or ("bare", "langchain", "llama_index"):
        missing = name in modules and _is_missing(modules[name])
        marks = pytest.mark.skipif(missing, reason=f"needs the extra of {name}")
        parameters += [
            pytest.param(Surface(name, mode), id=f"{name}-{mode}", marks=marks) for mode in modes
        ]
    return parameters


def _is_missing(module):
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        return True


def client(url, *, attempts=ATTEMPTS, deadline=10.0, dialect="cohere", **options):
    """Build a remote backend that retries without waiting."""
    if dialect != "tei":
        options.setdefault("model", "m")
    options.setdefault("timeout", deadline)
    remote = HTTPBackend(url, dialect=dialect, **options)
    return RetryingBackend(remote, attempts=attempts, deadline=deadline, initial_backoff=0.0)


def chain(spec, **tables):
    """Build a backend with the wrappers of a configuration file."""
    return load_backend({"backend": spec, **tables})


def everything_said(error):
    """Return the text of an error as a log shows it: messages, notes and causes."""
    causes, cause = [], error
    while cause is not None:
        causes.append(repr(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join([*traceback.format_exception(error), *causes])
