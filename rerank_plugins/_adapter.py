"""What both framework adapters share: their settings, and what becomes of the documents."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from rerank_plugins._internal.checks import check_choice
from rerank_plugins._internal.options import unknown
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.backend import Backend, as_scores
from rerank_plugins.content import Query
from rerank_plugins.errors import BackendError, BackendRejected, ConfigError
from rerank_plugins.hooks import FellBack, outcome_of
from rerank_plugins.hooks._dispatch import Dispatcher
from rerank_plugins.ranking import check_cut, rank
from rerank_plugins.scores import Scores

__all__ = [
    "DEFAULT_TOP_N",
    "METADATA_KEYS",
    "OTHER_CUTS",
    "RERANK_STATUS",
    "RERANK_TRUNCATED",
    "RETRIEVER_RANK",
    "RETRIEVER_SCORE",
    "Kept",
    "OnError",
    "Outcome",
    "add_facts",
    "check_on_error",
    "check_settings",
    "instructed",
    "plain",
    "refuse_unknown",
    "reranking",
]

DEFAULT_TOP_N = 3
"""How many documents an adapter keeps by default."""

RETRIEVER_RANK = "retriever_rank"
"""Metadata key: the place the retriever gave the document, from 1. Marks a reranked document."""

RETRIEVER_SCORE = "retriever_score"
"""Metadata key: the score the retriever gave the document, if it gave one."""

RERANK_STATUS = "rerank_status"
"""Metadata key: `"scored:NAME"` where there was a choice of backends, `"fallback:ERROR"` where
no backend scored and the documents kept their order. Absent otherwise."""

RERANK_TRUNCATED = "rerank_truncated"
"""Metadata key: True on a document of which the model read a part only. Absent on others."""

METADATA_KEYS = (RETRIEVER_RANK, RETRIEVER_SCORE, RERANK_STATUS, RERANK_TRUNCATED)
"""Every key that a reranking may add, besides the score itself."""

OnError: TypeAlias = Literal["raise", "original_order"]
"""What to do when the backend fails."""

_SETTING = "is a setting of the backend; give it in `backend`, as in "
_KEY = (
    "is read from the environment; name the variable in `backend`, as in "
    "backend='cohere:rerank-v4.0-pro?api_key_env=COHERE_API_KEY'"
)
_MODEL = _SETTING + (
    "backend='local:BAAI/bge-reranker-v2-m3' or backend='xinference+http://host:9997?model=UID'"
)
_URL = _SETTING + "backend='xinference+http://host:9997?model=UID'"
_KEPT = (
    "is not needed: the retriever's score and rank are always kept, in the metadata "
    f"`{RETRIEVER_SCORE}` and `{RETRIEVER_RANK}`"
)
_TOP_N = "is called `top_n` here"
_MIN_SCORE = "is called `min_score` here"


def _option(example: str) -> str:
    return f"{_SETTING}backend='local:BAAI/bge-reranker-v2-m3?{example}'"


_SCORER = "is not needed: what scores the documents is given in `backend`"
_OPTIONS = (
    "holds options of the backend; give them in `backend`, as in "
    "backend='local:BAAI/bge-reranker-v2-m3?device=cuda&dtype=float16'"
)

_RENAMED: Mapping[str, str] = {
    "api_key": _KEY,
    "api_url": _URL,
    "auth_token": _KEY,
    "base_compressor": _SCORER,
    "base_retriever": "is the first argument of `RerankRetriever`, called `retriever`",
    "base_url": _URL,
    "batch_size": (
        "does not exist: batches are planned by tokens; `batch_tokens` of the local backend "
        "bounds them"
    ),
    "client": _URL,
    "compressor": _SCORER,
    "cross_encoder": _SCORER,
    "cross_encoder_kwargs": _OPTIONS,
    "device": _option("device=cuda:0"),
    "endpoint": _URL,
    "keep_retrieval_score": _KEPT,
    "k": _TOP_N,
    "max_length": _option("max_length=512"),
    "model": _MODEL,
    "model_args": _OPTIONS,
    "model_id": _MODEL,
    "model_id_or_path": _MODEL,
    "model_kwargs": _OPTIONS,
    "model_name": _MODEL,
    "model_name_or_path": _MODEL,
    "model_uid": _MODEL,
    "reranker": _SCORER,
    "score_threshold": _MIN_SCORE,
    "server_url": _URL,
    "similarity_cutoff": _MIN_SCORE,
    "threshold": _MIN_SCORE,
    "timeout": _SETTING + "backend='xinference+http://host:9997?model=UID&timeout=10'",
    "top_k": _TOP_N,
    "trust_remote_code": _option("trust_remote_code=true"),
    "url": _URL,
    "use_fp16": _option("dtype=float16"),
}
"""Names from other rerankers → what to do instead."""

OTHER_CUTS = frozenset(name for name in _RENAMED if _RENAMED[name] in (_TOP_N, _MIN_SCORE)) - {"k"}
"""Other rerankers' names of `top_n` and `min_score`; without `k`, a setting of many retrievers."""

_logger = logging.getLogger(__name__)
_may_warn = Throttle()


def refuse_unknown(names: Iterable[str], *, valid: Iterable[str], where: str) -> None:
    """Refuse each setting that does not exist; say what a name from another reranker is here.

    Args:
        names: the names that are not among `valid`; none is fine.
        valid: the names that exist.
        where: the class, for the message.

    Raises:
        ConfigError: there is a name in `names`.
    """
    for name in names:
        if name in _RENAMED:
            raise ConfigError(f"`{where}`: `{name}` {_RENAMED[name]}")
        raise ConfigError(unknown("setting", name, sorted(valid), f" of `{where}`"))


def check_settings(
    backend: Backend,
    *,
    top_n: int | None,
    min_score: float | None,
    instruction: str | None = None,
) -> None:
    """Check the cut, and that a threshold and an instruction mean something for `backend`.

    Raises:
        ConfigError: `top_n` is negative or not an integer, `min_score` is not finite, or
            `min_score` is given and the scale of `backend` is unknown, or `min_score` is
            outside 0 to 1 for probabilities; `instruction` is blank or not a string, or
            `backend` can't tell its model one.
    """
    check_cut(top_n=top_n, min_score=min_score)
    if min_score is not None and backend.scale == "probability" and not 0 <= min_score <= 1:
        raise ConfigError(
            f"min_score={min_score!r} is outside 0 to 1, the range of the scores of backend "
            f"{backend.label!r}"
        )
    if min_score is not None and backend.scale == "unknown":
        raise ConfigError(
            f"min_score={min_score!r} has no meaning for backend {backend.label!r}, which does "
            "not say what range its scores have; leave `min_score` out and cut with `top_n`, or "
            "choose a backend whose `scale` is 'probability' or 'logit'; if you know what a server "
            "sends, write server_scale=probability or server_scale=logit in its spec"
        )

    if instruction is None:
        return
    if not isinstance(instruction, str) or not instruction.strip():
        raise ConfigError("`instruction` must be a string that is not blank")
    if not backend.instructions:
        raise ConfigError(
            f"backend {backend.label!r} can't tell its model an `instruction`; leave it out, or "
            "choose a model that takes instructions"
        )


def instructed(query: str | Query, instruction: str | None) -> str | Query:
    """Return the query with an instruction, unless it has one of its own."""
    if instruction is None:
        return query
    if isinstance(query, Query):
        return replace(query, instruction=query.instruction or instruction)
    return Query(query, instruction=instruction)


def check_on_error(value: object) -> None:
    """Check the setting `on_error`; adapters call it when they are built.

    Raises:
        ConfigError: it is none of the choices.
    """
    check_choice("on_error", value, get_args(OnError))


@dataclass(frozen=True, slots=True)
class Kept:
    """A document that stays in the result."""

    index: int
    """Its position in the list that was reranked."""
    score: float | None
    """Its score; None where the backend failed."""
    truncated: bool
    """Whether the model read a part of it only."""


@dataclass
class Outcome:
    """What became of `count` documents."""

    count: int
    scores: Sequence[float] | None = None
    """One per document; None if there are none, because the backend failed."""
    status: str | None = None
    """What to write under `RERANK_STATUS`, if anything."""

    def kept(self, *, top_n: int | None, min_score: float | None) -> Sequence[Kept]:
        """Return the documents to keep, best first."""
        if self.scores is None:
            return [Kept(index, None, truncated=False) for index in range(self.count)][:top_n]
        ranked = rank(self.scores, top_n=top_n, min_score=min_score)
        truncated = self.scores.truncated if isinstance(self.scores, Scores) else ()
        return [Kept(item.index, item.score, item.index in truncated) for item in ranked]


@contextmanager
def reranking(backend: Backend, count: int, *, on_error: OnError) -> Iterator[Outcome]:
    """Let the block score `count` documents with `backend`, and learn how it went.

    `on_error="original_order"` takes the failures of the backend. Wrong input, wrong settings,
    refusals, also of the key, and cancellation are raised: there the caller must act.
    """
    outcome = Outcome(count)
    try:
        yield outcome
        if outcome.scores is None:
            outcome.scores = Scores((), scale=backend.scale)
        outcome.scores = scores = as_scores(outcome.scores, count, backend)
    except BackendRejected:
        raise
    except BackendError as error:
        if on_error == "raise":
            raise
        outcome.scores = None
        outcome.status = f"fallback:{type(error).__name__}"
        hooks = (hook for node in backend.walk() for hook in node.hooks)
        Dispatcher(hooks)(FellBack(outcome_of(error), "original_order"))
        if _may_warn():
            _logger.warning("reranking failed, documents keep their order: %s", error)
    else:
        has_choice = any(len(node.children) > 1 for node in backend.walk())
        if has_choice and scores.backend is not None:
            outcome.status = f"scored:{scores.backend}"


def plain(score: object) -> object:
    """Return a retriever's score as a Python float, so that metadata stays JSON.

    What converts to a float, such as NumPy's numbers, does; all else stays as it is.
    """
    if isinstance(score, str | bytes | bool) or not hasattr(score, "__float__"):
        return score
    try:
        return float(score)
    except (TypeError, ValueError):  # an array of several numbers
        return score


def add_facts(
    metadata: MutableMapping[str, object], *, status: str | None, truncated: bool
) -> None:
    """Write what is known of a reranking; what another reranker wrote is not true any more.

    A retriever's score that stands there already stays, as a Python float.
    """
    if RETRIEVER_SCORE in metadata:
        metadata[RETRIEVER_SCORE] = plain(metadata[RETRIEVER_SCORE])
    for key, fact in ((RERANK_STATUS, status), (RERANK_TRUNCATED, truncated)):
        metadata.pop(key, None)
        if fact:
            metadata[key] = fact
