"""The one interface: a backend scores documents against a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Self

from rerank_plugins._internal.parallel import in_thread
from rerank_plugins.content import TEXT_ONLY, Document, Query, Requests
from rerank_plugins.errors import ConfigError
from rerank_plugins.scores import Scale, Scores, check_scores

__all__ = [
    "Backend",
    "ModelCheck",
    "OwnProcess",
    "ServerCheck",
    "TextStore",
    "as_scores",
    "ascore_with",
]


UNCALIBRATED = "uncalibrated"
"""What `describe()` calls the calibration of scores that are no probabilities of anything."""


class OwnProcess(Protocol):
    """A process, other than this one, that runs the model of a backend and is replaced if it ends.

    A server is not ready while one restarts, and kills it if it must end at once.
    """

    @property
    def is_restarting(self) -> bool:
        """Whether calls fail for now."""

    def restarting_for(self) -> float:
        """Return for how many seconds calls have been failing; 0 if they don't."""

    def kill(self) -> None:
        """Kill the process, also one that still loads the model; never wait."""


class TextStore(Protocol):
    """Keeps what a model made of texts alone, for later calls, processes and machines.

    May forget anything at any time, and never raises because it is broken. What it returns is what
    was kept for this maker and this text, to the last bit. Safe to share between threads; a pickled
    copy uses the same place.
    """

    def get_many(self, maker: str, texts: Sequence[str], *, longest: int) -> list[bytes | None]:
        """Return one value per text, in order; None where there is none.

        Args:
            maker: what makes the values; texts of equal makers have equal values.
            texts: the texts.
            longest: bytes of the longest value that the caller takes.
        """

    def set_many(self, maker: str, values: Mapping[str, bytes]) -> None:
        """Keep the value of each text."""


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """Whether a model that a backend runs on this machine will load; it was not."""

    ok: bool
    """Whether nothing speaks against it."""
    detail: str
    """What it is in a line, or why it does not load and what to do."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """What its files say, JSON-ready: kind, architecture, engines, size of the download, …"""


@dataclass(frozen=True, slots=True)
class ServerCheck:
    """Whether a server that a backend calls can score; sent no text and paid for nothing."""

    ok: bool
    """Whether it answers and has the model."""
    detail: str
    """What answers there, or what is wrong and what to do."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """What it says of itself, JSON-ready; empty if it says nothing."""


class Backend(ABC):
    """Scores documents against a query. Implement `name` and `score`; the rest has defaults.

    Safe to share between threads and cheap to build: models load and connections open on
    first use. The order of the scores is the order of the documents; sorting is `rank()`'s.

    What a backend says of itself is cheap and never loads a model: `kind`, `model`, `label`,
    `children`, `scale` and the other attributes. Only `name` and `describe()` may load.
    """

    scale: Scale = "unknown"
    """Range of the scores; `"unknown"` unless the backend can promise it."""

    cacheable: bool = True
    """Whether a score depends on `name`, the query and its own document alone.

    False where another model may answer, as in a fallback chain, and for listwise models.
    """

    pointwise: bool = True
    """Whether a score does not depend on the other documents of the request.

    False for listwise models; their requests are never split.
    """

    inputs: frozenset[str] = TEXT_ONLY
    """What queries and documents may hold: `{"text"}` or `{"text", "image"}`."""

    instructions: bool = False
    """Whether a `Query` may hold an instruction; a model may still refuse it once it is loaded."""

    document_tokens: int | None = None
    """About how many tokens of a document it reads at most, by which batches and queues estimate
    what a request costs; None: nobody knows."""

    best_part_counts: bool = False
    """Whether the score of a long document is about that of its best part, so that a server may
    score the parts of one apart, and nobody waits for all of it."""

    reloads: bool = False
    """Whether a call may have to load the model again, and so take as long as a load."""

    hooks: tuple[Callable[[Any], None], ...] = ()
    """Who receives the events of its calls; see `rerank_plugins.hooks`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What makes the scores: backends of equal names give equal scores. Holds no secret."""

    @property
    def kind(self) -> str:
        """What sort of backend this is, as in a spec: `"local"`, `"tei"`, `"cache"`."""
        return type(self).__name__

    @property
    def model(self) -> str | None:
        """The model as the user wrote it; None if there is no choice."""
        return None

    @property
    def label(self) -> str:
        """Kind and model, as in `"local:BAAI/bge-reranker-v2-m3"`; no secret, no host.

        For traces, metrics and messages.
        """
        return f"{self.kind}:{self.model}" if self.model else self.kind

    @property
    def endpoint(self) -> str | None:
        """The `host:port` of the server that scores; None if no other server does."""
        return None

    @property
    def process(self) -> OwnProcess | None:
        """The process in which this backend runs its model; None: this one, or that of a child."""
        return None

    @property
    def children(self) -> tuple[Backend, ...]:
        """The backends that this one scores with; none for one that scores by itself."""
        return ()

    def walk(self) -> Iterator[Backend]:
        """Yield this backend and all below it, each before its children."""
        yield self
        for child in self.children:
            yield from child.walk()

    def with_children(self, children: Sequence[Backend]) -> Backend:
        """Return a copy of this backend around `children`; this one does not change.

        Raises:
            ConfigError: their number is not that of `self.children`, or they don't fit.
        """
        if children:
            raise ConfigError(f"{self!r} asks no other backend, so it can't be given any")
        return self

    def with_text_store(self, store: TextStore) -> Backend:
        """Return a copy that keeps in `store` what it computes of each document alone.

        A backend that computes nothing of the kind, like all below it, returns itself.
        """
        children = [child.with_text_store(store) for child in self.children]
        if all(new is old for new, old in zip(children, self.children, strict=True)):
            return self
        return self.with_children(children)

    @abstractmethod
    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        """Return one finite float per document, in input order; higher is more relevant.

        No documents give no scores without any work. It is all or nothing: never a partial list.
        A backend of yours may return any sequence of floats.

        Raises:
            UnsupportedInputError: the query or a document is of a kind that can't be scored.
            BackendError: the backend failed; its subclasses say whether a retry may help.
        """

    def score_many(self, requests: Requests) -> list[Scores]:
        """Score several `(query, documents)` requests; like `score`, one result per request."""
        return [self.score(query, documents) for query, documents in requests]

    async def ascore(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        """Like `score`, without blocking the event loop (by default: in a thread)."""
        return await in_thread(self.score, query, documents)

    def describe(self) -> dict[str, object]:
        """Return what would score and how, as JSON-ready facts; may load the model.

        `calibration` is `"uncalibrated"` where the scores are known to be no probabilities.
        """
        facts = {"name": self.name, "scale": self.scale, "cacheable": self.cacheable}
        if self.scale in ("similarity", "unknown"):  # a model may know it once it is loaded
            facts["calibration"] = UNCALIBRATED
        return facts

    def check_requirements(self) -> None:
        """Check that this machine has what scoring needs; loads no model and sends nothing.

        Raises:
            MissingDependencyError: a package is not installed.
            ConfigError: a key is not set.
        """
        for child in self.children:
            child.check_requirements()

    def check_models(self) -> Iterator[ModelCheck]:
        """Check each model that runs on this machine, by its small files; loads none.

        A hub may be asked for these, and none of them stays.
        """
        for child in self.children:
            yield from child.check_models()

    def check_servers(self) -> Iterator[ServerCheck]:
        """Check each server that this backend calls; sends nothing that is scored or billed."""
        for child in self.children:
            yield from child.check_servers()

    def to_spec(self) -> dict[str, object]:
        """Return the mapping from which `load_backend()` rebuilds this backend; no secrets.

        Raises:
            ConfigError: this backend can't be written down.
        """
        raise ConfigError(
            f"`{type(self).__name__}` can't be written as a spec; pass a spec string, a mapping "
            "or a TOML file in its place, or implement `to_spec()`"
        )

    def close(self) -> None:
        """Free models and connections. Closing twice is fine; so is using it again."""

    async def aclose(self) -> None:
        """Like `close`, without blocking the event loop (by default: in a thread).

        A backend that holds what belongs to the running event loop closes that, too.
        """
        await in_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        name, label = type(self).__name__, self.label
        return f"<{name}>" if label == name else f"<{name} {label}>"


def as_scores(scores: Sequence[object], count: int, backend: Backend) -> Scores:
    """Return what `backend` answered for `count` documents as `Scores`.

    Our backends answer in `Scores`; those of users may answer in any sequence of numbers. What
    the answer does not say of who scored is what the backend says of itself.

    Raises:
        InvalidResponse: the count differs, or a score is not a finite number.
    """
    if isinstance(scores, Scores) and len(scores) == count:  # finite, or it could not be made
        if scores.backend is not None or not count:
            return scores
        scale = backend.scale if scores.scale == "unknown" else scores.scale
        model = backend.model if scores.model is None else scores.model
        label = backend.label if scores.label is None else scores.label
        return replace(scores, backend=backend.name, label=label, model=model, scale=scale)
    values = check_scores(scores, count)
    if not values:
        return Scores((), scale=backend.scale)
    return Scores(
        values,
        backend=backend.name,
        label=backend.label,
        model=backend.model,
        scale=backend.scale,
    )


async def ascore_with(
    backend: Backend, query: str | Query, documents: Sequence[Document]
) -> Scores:
    """Score with a backend, which may be one of the user's, without blocking the event loop.

    Raises:
        InvalidResponse: it does not return one finite number for each document.
    """
    scores: Sequence[object] = await backend.ascore(query, documents)
    if isinstance(scores, Scores) and scores.backend is not None:
        return as_scores(scores, len(documents), backend)
    return await in_thread(as_scores, scores, len(documents), backend)  # its `name` may block
