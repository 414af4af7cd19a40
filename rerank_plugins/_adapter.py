"""What both framework adapters share: their settings, and what becomes of the documents."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from rerank_plugins._internal.checks import check_choice
from rerank_plugins._internal.options import unknown
from rerank_plugins._internal.plain_numbers import plain_integer
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.backend import Backend, as_scores
from rerank_plugins.content import Document, Query
from rerank_plugins.errors import BackendError, BackendRejected, ConfigError
from rerank_plugins.hooks import FellBack, outcome_of
from rerank_plugins.hooks._dispatch import Dispatcher
from rerank_plugins.ranking import Selection
from rerank_plugins.scores import Passage, Scores

__all__ = [
    "DEFAULT_TOP_N",
    "METADATA_KEYS",
    "OTHER_CUTS",
    "RERANK_CUTOFF",
    "RERANK_DUPLICATES",
    "RERANK_PASSAGE",
    "RERANK_STATUS",
    "RERANK_TRUNCATED",
    "RETRIEVER_RANK",
    "RETRIEVER_SCORE",
    "SELECTION",
    "Keep",
    "Kept",
    "OnError",
    "Outcome",
    "add_facts",
    "add_passage",
    "check_keep",
    "check_on_error",
    "check_settings",
    "instructed",
    "own_passage",
    "plain",
    "refuse_unknown",
    "reranking",
    "selection_of",
    "settings_of",
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

RERANK_CUTOFF = "rerank_cutoff"
"""Metadata key: `"min_gap"` or `"max_tokens"`, where that ended the ranking. Absent otherwise."""

RERANK_DUPLICATES = "rerank_duplicates"
"""Metadata key: the retriever's ranks, from 1, of the documents that were left out because they
repeat this one. Absent where there are none."""

RERANK_PASSAGE = "rerank_passage"
"""Metadata key: `[start, end]`, the characters of the text that made the score. Absent on documents
that were read at once. Where the text was cut to it, the characters are those of the whole."""

Keep: TypeAlias = Literal["document", "passage"]
"""Whether a document that was read in windows comes back whole, or as its best passage."""

METADATA_KEYS = (
    RETRIEVER_RANK,
    RETRIEVER_SCORE,
    RERANK_STATUS,
    RERANK_TRUNCATED,
    RERANK_CUTOFF,
    RERANK_DUPLICATES,
    RERANK_PASSAGE,
)
"""Every key that a reranking may add, besides the score itself."""

SELECTION = tuple(field.name for field in fields(Selection))
"""The settings that say how many documents to keep."""

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

_TOLD_CUTOFFS = frozenset({"max_tokens", "min_gap"})
"""Those that depend on the documents; how many others leave is known beforehand."""

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
    backend: Backend, selection: Selection, *, instruction: str | None = None
) -> None:
    """Check the cut, and that a threshold and an instruction mean something for `backend`.

    Raises:
        ConfigError: a setting has a wrong type or is out of range, or `min_score` or `min_gap`
            is given and the scale of `backend` is unknown, or is outside 0 to 1 for probabilities;
            `instruction` is blank or not a string, or `backend` can't tell its model one.
    """
    selection.check()
    for name, value in (("min_score", selection.min_score), ("min_gap", selection.min_gap)):
        if value is not None:
            _check_threshold(name, value, backend)
    if instruction is None:
        return
    if not isinstance(instruction, str) or not instruction.strip():
        raise ConfigError("`instruction` must be a string that is not blank")
    if not backend.instructions:
        raise ConfigError(
            f"backend {backend.label!r} can't tell its model an `instruction`; leave it out, or "
            "choose a model that takes instructions"
        )


def _check_threshold(name: str, value: float, backend: Backend) -> None:
    """Check that a number on the scale of the scores means something there."""
    if backend.scale == "probability" and not 0 <= value <= 1:
        raise ConfigError(
            f"{name}={value!r} is outside 0 to 1, the range of the scores of backend "
            f"{backend.label!r}"
        )
    if backend.scale == "unknown":
        raise ConfigError(
            f"{name}={value!r} has no meaning for backend {backend.label!r}, which does "
            f"not say what range its scores have; leave `{name}` out and cut with `top_n`, or "
            "choose a backend whose `scale` is 'probability' or 'logit'; if you know what a server "
            "sends, write server_scale=probability or server_scale=logit in its spec"
        )


def settings_of(selection: Selection) -> dict[str, Any]:
    """Return the settings as an adapter keeps them: plain numbers, and paths as text."""
    counted = selection.count_tokens
    return {
        **{field.name: getattr(selection, field.name) for field in fields(selection)},
        "top_n": plain_integer(selection.top_n),
        "max_tokens": plain_integer(selection.max_tokens),
        "count_tokens": os.fspath(counted) if isinstance(counted, os.PathLike) else counted,
    }


def selection_of(settings: Mapping[str, Any]) -> Selection:
    """Return those of `settings` that say how many documents to keep."""
    return Selection(**{name: settings[name] for name in SELECTION if name in settings})


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
    cutoff: str | None = None
    """What to write under `RERANK_CUTOFF`, if anything."""
    duplicates: tuple[int, ...] = ()
    """Positions of those that were left out because they repeat it."""
    passage: Passage | None = None
    """The part of what was scored that made the score, where one did."""


@dataclass
class Outcome:
    """What became of `count` documents."""

    count: int
    scores: Sequence[float] | None = None
    """One per document; None if there are none, because the backend failed."""
    status: str | None = None
    """What to write under `RERANK_STATUS`, if anything."""

    def kept(
        self, selection: Selection, documents: Callable[[], Sequence[Document]]
    ) -> Sequence[Kept]:
        """Return the documents to keep, best first; without scores, as they came.

        Args:
            selection: how many to keep; without scores, its thresholds mean nothing.
            documents: returns what the user will read of each document; called if that matters.
        """
        scores = self.scores
        if scores is None:
            selection = replace(selection, min_score=None, min_gap=None)
            scores = [0.0] * self.count
        ranking = selection.apply(scores, documents() if selection.reads_documents else None)
        truncated = scores.truncated if isinstance(scores, Scores) else ()
        cutoff = ranking.cutoff
        if not ranking and cutoff.by == "max_tokens" and selection.max_tokens and _may_warn():
            _logger.warning(
                "max_tokens=%d keeps no document: the best one is longer", selection.max_tokens
            )
        return [
            Kept(
                item.index,
                None if self.scores is None else item.score,
                item.index in truncated,
                cutoff.by if cutoff.by in _TOLD_CUTOFFS else None,
                tuple(index for index, of in cutoff.duplicates.items() if of == item.index),
                self.passage(item.index),
            )
            for item in ranking
        ]

    def passage(self, index: int) -> Passage | None:
        """Return the part of a document that made its score, where one did."""
        return self.scores.passages.get(index) if isinstance(self.scores, Scores) else None


def check_keep(value: object) -> None:
    """Check the setting `keep`; adapters call it when they are built.

    Raises:
        ConfigError: it is none of the choices.
    """
    check_choice("keep", value, get_args(Keep))


def own_passage(scored: str, own: str, passage: Passage | None) -> Passage | None:
    """Return the characters of a document's own text in a passage of what was scored of it.

    None if the passage holds nothing of it, or the text does not stand in what was scored. There
    it may lack the white space around it, which templates strip.
    """
    if passage is None or scored == own:
        return passage
    inner = own.strip()
    place = scored.rfind(inner)
    if not inner or place < 0:
        return None
    shift = place - own.index(inner)
    start, end = max(0, passage.start - shift), min(len(own), passage.end - shift)
    return Passage(start, end) if start < end else None


def add_passage(metadata: MutableMapping[str, object], text: str, passage: Passage | None) -> None:
    """Write which characters of a document's text made its score.

    If another reranker has cut the text, they are counted from the start of the whole.
    """
    earlier = metadata.pop(RERANK_PASSAGE, None)
    before = 0
    if isinstance(earlier, Sequence) and len(earlier) == 2:  # noqa: PLR2004 - start and end
        start, end = earlier
        if isinstance(start, int) and isinstance(end, int) and end - start == len(text):
            before = start
            passage = Passage(0, len(text)) if passage is None else passage
    if passage is not None:
        metadata[RERANK_PASSAGE] = [before + passage.start, before + passage.end]


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
    metadata: MutableMapping[str, object], kept: Kept, *, status: str | None, truncated: bool
) -> None:
    """Write what is known of a reranking; what another reranker wrote is not true any more.

    A retriever's score that stands there already stays, as a Python float.
    """
    if RETRIEVER_SCORE in metadata:
        metadata[RETRIEVER_SCORE] = plain(metadata[RETRIEVER_SCORE])
    facts = {
        RERANK_STATUS: status,
        RERANK_TRUNCATED: truncated,
        RERANK_CUTOFF: kept.cutoff,
        RERANK_DUPLICATES: [index + 1 for index in kept.duplicates],
    }
    for key, fact in facts.items():
        metadata.pop(key, None)
        if fact:
            metadata[key] = fact
