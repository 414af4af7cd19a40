"""Rerank the candidates of a retriever, locally or through a rerank server."""

from typing import Never

from rerank_plugins.backend import Backend
from rerank_plugins.content import Content, Document, Query
from rerank_plugins.errors import (
    AuthenticationError,
    BackendCrashed,
    BackendError,
    BackendOutOfMemory,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    DataError,
    DocumentQuarantined,
    InvalidResponse,
    MissingDependencyError,
    RerankError,
    UnsupportedInputError,
)
from rerank_plugins.ranking import Cutoff, Ranked, Ranking, rank
from rerank_plugins.result import RerankResult, arerank, rerank
from rerank_plugins.scores import Passage, Scale, Scores, Usage
from rerank_plugins.spec import BackendSpec, load_backend

__version__ = "0.1.0"

_ADAPTERS = {
    "RerankCompressor": "rerank_plugins.langchain",
    "RerankPostprocessor": "rerank_plugins.llama_index",
    "RerankRetriever": "rerank_plugins.langchain",
}

__all__ = [
    "AuthenticationError",
    "Backend",
    "BackendCrashed",
    "BackendError",
    "BackendOutOfMemory",
    "BackendOverloaded",
    "BackendRejected",
    "BackendSpec",
    "BackendTimeout",
    "BackendUnavailable",
    "ConfigError",
    "Content",
    "Cutoff",
    "DataError",
    "Document",
    "DocumentQuarantined",
    "InvalidResponse",
    "MissingDependencyError",
    "Passage",
    "Query",
    "Ranked",
    "Ranking",
    "RerankError",
    "RerankResult",
    "Scale",
    "Scores",
    "UnsupportedInputError",
    "Usage",
    "arerank",
    "load_backend",
    "rank",
    "rerank",
]


def __getattr__(name: str) -> Never:
    if name in _ADAPTERS:  # `from … import` shows an error only if it is no `AttributeError`
        raise ImportError(f"write: from {_ADAPTERS[name]} import {name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
