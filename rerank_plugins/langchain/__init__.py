"""LangChain: a document compressor and a retriever that rerank."""

from __future__ import annotations

from rerank_plugins._internal.optional import require

require("langchain_core", extra="langchain")

from rerank_plugins.langchain.compressor import (  # noqa: E402  # first say what is missing
    RerankCompressor,
    RerankInput,
)
from rerank_plugins.langchain.documents import RELEVANCE_SCORE  # noqa: E402
from rerank_plugins.langchain.retriever import RerankRetriever  # noqa: E402

__all__ = ["RELEVANCE_SCORE", "RerankCompressor", "RerankInput", "RerankRetriever"]
