"""The settings both framework adapters share: their default, their checks, their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rerank_plugins._internal.options import unknown
from rerank_plugins.backend import Backend, check_cut
from rerank_plugins.errors import ConfigError

__all__ = [
    "DEFAULT_TOP_N",
    "OTHER_CUTS",
    "RETRIEVER_RANK",
    "RETRIEVER_SCORE",
    "check_settings",
    "label",
    "refuse_unknown",
]

DEFAULT_TOP_N = 3
"""How many documents an adapter keeps unless told otherwise."""

RETRIEVER_RANK = "retriever_rank"
"""Metadata key: the place the retriever gave the document, from 1. Marks a reranked document."""

RETRIEVER_SCORE = "retriever_score"
"""Metadata key: the score the retriever gave the document, if it gave one."""

_OF_THE_BACKEND = "is a setting of the backend; give it in `backend`, as in "
_KEY = (
    "is read from the environment; name the variable in `backend`, as in "
    "backend='cohere:rerank-v3.5?api_key_env=COHERE_API_KEY'"
)
_MODEL = _OF_THE_BACKEND + (
    "backend='local:BAAI/bge-reranker-v2-m3' or backend='xinference+http://host:9997?model=UID'"
)
_URL = _OF_THE_BACKEND + "backend='xinference+http://host:9997?model=UID'"
_KEPT = (
    "is not needed: the retriever's score and rank are always kept, in the metadata "
    f"`{RETRIEVER_SCORE}` and `{RETRIEVER_RANK}`"
)
_TOP_N = "is called `top_n` here"
_MIN_SCORE = "is called `min_score` here"


def _option(example: str) -> str:
    return f"{_OF_THE_BACKEND}backend='local:BAAI/bge-reranker-v2-m3?{example}'"


_RENAMED: Mapping[str, str] = {
    "api_key": _KEY,
    "api_url": _URL,
    "auth_token": _KEY,
    "base_compressor": "is not needed: what scores the documents is given in `backend`",
    "base_retriever": "is the first argument of `RerankRetriever`, called `retriever`",
    "base_url": _URL,
    "batch_size": (
        "does not exist: batches are planned by tokens; `batch_tokens` of the local backend "
        "bounds them"
    ),
    "device": _option("device=cuda:0"),
    "endpoint": _URL,
    "keep_retrieval_score": _KEPT,
    "k": _TOP_N,
    "max_length": _option("max_length=512"),
    "model": _MODEL,
    "model_id": _MODEL,
    "model_id_or_path": _MODEL,
    "model_name": _MODEL,
    "model_name_or_path": _MODEL,
    "model_uid": _MODEL,
    "score_threshold": _MIN_SCORE,
    "server_url": _URL,
    "similarity_cutoff": _MIN_SCORE,
    "threshold": _MIN_SCORE,
    "timeout": _OF_THE_BACKEND + "backend='xinference+http://host:9997?model=UID&timeout=10'",
    "top_k": _TOP_N,
    "trust_remote_code": _option("trust_remote_code=true"),
    "url": _URL,
    "use_fp16": _option("dtype=float16"),
}
"""Names from other rerankers → what to do instead."""

OTHER_CUTS = frozenset(name for name in _RENAMED if _RENAMED[name] in (_TOP_N, _MIN_SCORE)) - {"k"}
"""Other rerankers' names of `top_n` and `min_score`; without `k`, a setting of many retrievers."""


def refuse_unknown(given: Iterable[str], *, valid: Iterable[str], where: str) -> None:
    """Refuse each setting that does not exist; say what a name from another reranker is here.

    Args:
        given: the names that are not among `valid`; none is fine.
        valid: the names that exist.
        where: the class, for the message.

    Raises:
        ConfigError: there is a name in `given`.
    """
    for name in given:
        if name in _RENAMED:
            raise ConfigError(f"`{where}`: `{name}` {_RENAMED[name]}")
        raise ConfigError(unknown("setting", name, sorted(valid), f" of `{where}`"))


def check_settings(backend: Backend, *, top_n: int | None, min_score: float | None) -> None:
    """Check the cut, and that a threshold means something for the scores of `backend`.

    Raises:
        ConfigError: `top_n` is negative or not an integer, `min_score` is not finite, or
            `min_score` is given and the scale of `backend` is unknown, or `min_score` is
            outside 0 to 1 for probabilities.
    """
    check_cut(top_n=top_n, min_score=min_score)
    if min_score is not None and backend.scale == "probability" and not 0 <= min_score <= 1:
        raise ConfigError(
            f"min_score={min_score!r} is outside 0 to 1, the range of the scores of backend "
            f"{label(backend)!r}"
        )
    if min_score is not None and backend.scale == "unknown":
        raise ConfigError(
            f"min_score={min_score!r} has no meaning for backend {label(backend)!r}, which does "
            "not say what range its scores have; leave `min_score` out and cut with `top_n`, or "
            "choose a backend whose `scale` is 'probability' or 'logit'; if you know what a server "
            "sends, write server_scale=probability or server_scale=logit in its spec"
        )


def label(backend: Backend) -> str:
    """Name a backend for traces and messages, as in `local:BAAI/bge-reranker-v2-m3`.

    `Backend.name` says more, but may load the model to do so; this never does.
    """
    try:
        spec: Mapping[str, Any] = backend.to_spec()
    except ConfigError:  # a backend of the user's own
        return backend.name
    asked = [spec.get("backend", spec), *spec.get("fallback", [])]
    return " | ".join(filter(None, map(_model, asked))) or backend.name


def _model(spec: Mapping[str, object]) -> str:
    return ":".join(str(spec[fact]) for fact in ("kind", "model") if spec.get(fact))
