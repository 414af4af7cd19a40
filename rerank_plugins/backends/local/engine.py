"""The interface of a local engine, and the settings it is loaded with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from rerank_plugins._internal.long_documents import MAX_WINDOWS, LongDocuments, LongDocumentsMode
from rerank_plugins.content import Query
from rerank_plugins.errors import ConfigError
from rerank_plugins.scores import Scores

if TYPE_CHECKING:  # the tokenizer imports this module, and numpy is heavy
    from numpy.typing import NDArray

    from rerank_plugins.backends.local.tokenizer import Pairs
    from rerank_plugins.backends.vector_store import VectorStore

__all__ = [
    "Attention",
    "DType",
    "Engine",
    "EngineSettings",
    "EngineStats",
    "Request",
    "Runner",
    "UnsupportedByEngine",
    "query_text",
]

Attention: TypeAlias = Literal["auto", "packed", "padded"]
"""Whether pairs of a batch lie one after another, or are padded to one length."""

DType: TypeAlias = Literal["auto", "float32", "tf32", "float16", "bfloat16", "int8", "int4"]
"""The dtype of weights and activations; `"auto"` leaves it to the engine and the device.

`"int8"` and `"int4"` are of weights; on the torch engine of weights alone.
"""

Request: TypeAlias = tuple[str | Query, Sequence[str]]
"""A query and its documents."""


def query_text(query: str | Query) -> str:
    """Return the words of a query, which has no image here."""
    return query if isinstance(query, str) else query.text or ""


class UnsupportedByEngine(ConfigError):
    """This engine can't run this checkpoint with these settings; another engine may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The user's settings; an engine refuses what it can't do with `UnsupportedByEngine`."""

    device: str = "auto"
    """`"auto"`, a name of torch, several separated by commas, or `"cuda:all"`."""
    dtype: DType = "auto"
    """Of weights and activations."""
    attention: Attention = "auto"
    """How the torch engine batches; `"auto"` packs where the model allows it."""
    compile: bool = False
    """Whether torch compiles the model when it loads."""
    cuda_graphs: bool = False
    """Whether small requests replay recorded CUDA graphs."""
    gpu_memory_fraction: float | None = None
    """The share of a GPU's memory that this process may use, 0 to 1; None: all of it."""
    batch_tokens: int | None = None
    """The most tokens in one batch, padding included; None: what suits the device."""
    threads: int | None = None
    """CPU threads of the engine; None: what suits the machine."""
    cached_tokens: int | None = None
    """Document tokens kept for the next request; 0 keeps none, None what suits the model."""
    allow_pickle: bool = False
    """Whether weights may be unpickled where there are no safetensors."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the checkpoint may run."""
    vector_store: VectorStore | None = None
    """Where a bi-encoder keeps the vectors of documents, beside the memory of this process."""
    long_documents: LongDocumentsMode = "truncate"
    """What becomes of documents that the model can't read at once."""
    best_windows: int = 1
    """How many windows make the score of a long document."""
    max_windows: int = MAX_WINDOWS
    """The most windows of a document."""
    window_tokens: int | None = None
    """The most tokens of a document in a window; None: as many as fit."""

    @property
    def windows(self) -> LongDocuments:
        """The last four together."""
        return LongDocuments(
            long_documents=self.long_documents,
            best_windows=self.best_windows,
            max_windows=self.max_windows,
            window_tokens=self.window_tokens,
        )


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine has done since it was loaded; counts only grow."""

    tokens: int = 0
    """Tokens that the model has read, padding included."""
    padding: int = 0
    """How many of these only fill up batches."""


class Runner(Protocol):
    """Runs one checkpoint on tokens; an engine without its tokenizer. Safe as an engine is."""

    @property
    def name(self) -> str:
        """As that of an engine."""

    def run(self, pairs: Pairs) -> NDArray[Any]:
        """Return what the checkpoint gives, in the order of the pairs.

        A logit for each pair, [n]; of a bi-encoder the vector of each text, or those of its
        compared tokens, text after text, [vectors, width].
        """

    def describe(self) -> dict[str, object]:
        """Return how it runs here, as JSON-ready facts."""

    def stats(self) -> EngineStats:
        """As of an engine."""

    def memory(self) -> dict[str, int]:
        """As of an engine."""

    def close(self) -> None:
        """As of an engine."""


class Engine(Protocol):
    """Scores pairs with one checkpoint. Its module offers `load(checkpoint, settings)`.

    Several threads may call `logits` at once: the engine locks what can't run in parallel. `load`
    and `close` are each called once, while no call of `logits` is in progress.
    """

    @property
    def name(self) -> str:
        """Engine and dtype, as in `"torch-float32"`.

        With the checkpoint it determines the logits, up to the rounding of the hardware.
        """

    def logits(self, requests: Sequence[Request]) -> list[Scores]:
        """Return the raw logits of each request, with what is known of its documents.

        Of a bi-encoder they are similarities, and their `scale` says so.

        The caller has checked the requests: the texts are valid Unicode, no query is blank, and
        only a checkpoint that `takes_instruction` gets one.

        Raises:
            UnsupportedInputError: the model can't use the instruction of a query; or a document
                is too long, and these are refused.
            BackendError: the model failed, or a single pair does not fit into memory.
        """

    def describe(self) -> dict[str, object]:
        """Return how the engine works here, as JSON-ready facts: device, dtype, counts."""

    def stats(self) -> EngineStats:
        """Return what was done so far; quick, and safe while others score."""

    def memory(self) -> dict[str, int]:
        """Return the bytes that the model takes now, as in `Computed.memory`; quick."""

    def close(self) -> None:
        """Free the model, and stop threads and processes."""
