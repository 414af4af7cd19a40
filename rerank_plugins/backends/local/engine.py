"""The interface of a local engine, and the settings it is loaded with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from rerank_plugins.errors import ConfigError

__all__ = [
    "Attention",
    "DType",
    "Engine",
    "EngineSettings",
    "EngineStats",
    "Request",
    "UnsupportedByEngine",
]

Attention: TypeAlias = Literal["auto", "packed", "padded"]
"""Whether pairs of a batch lie one after another, or are padded to one length."""

DType: TypeAlias = Literal["auto", "float32", "tf32", "float16", "bfloat16", "int8"]
"""How numbers are held; `"auto"` leaves it to the engine and the device."""

Request: TypeAlias = tuple[str, Sequence[str]]
"""A query and its documents."""


class UnsupportedByEngine(ConfigError):
    """This engine can't run this checkpoint with these settings; another engine may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the user chose; each engine refuses what it can't do with `UnsupportedByEngine`."""

    device: str = "auto"
    """`"auto"`, what torch calls it, several with commas between, or `"cuda:all"`."""
    dtype: DType = "auto"
    """How weights and activations are held."""
    attention: Attention = "auto"
    """How the torch engine batches; `"auto"` packs where the model allows it."""
    compile: bool = False
    """Whether torch compiles the model when it loads."""
    cuda_graphs: bool = False
    """Whether small requests replay recorded CUDA graphs."""
    gpu_memory_fraction: float | None = None
    """How much of a GPU's memory this process may use, 0 to 1; None: all there is."""
    batch_tokens: int | None = None
    """Most tokens in one batch, padding included; None: what suits the device."""
    threads: int | None = None
    """Processor threads of the engine; None: what suits the machine."""
    cached_tokens: int = 1 << 20
    """Document tokens kept for the next request; 0 keeps none."""
    allow_pickle: bool = False
    """Whether weights may be unpickled where there are no safetensors."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the checkpoint may run."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine has done since it was loaded; counts only grow."""

    truncated_pairs: int = 0
    """Pairs that were cut."""
    tokens: int = 0
    """What the model read, padding included."""
    padding: int = 0
    """How many of these only fill up batches."""


class Engine(Protocol):
    """Scores pairs with one checkpoint. Its module offers `load(checkpoint, settings)`.

    `logits` may be called by several threads at once: the engine locks what can't run in
    parallel. `load` and `close` are each called once, with no call of `logits` in progress.
    """

    @property
    def name(self) -> str:
        """What makes the logits beside the checkpoint: engine and dtype, as `"torch-float32"`.

        Engines of equal names give equal logits, up to the rounding of the hardware.
        """

    def logits(self, requests: Sequence[Request]) -> list[list[float]]:
        """Return one raw logit per document, in input order, one list per request.

        The texts were checked before: strings of valid Unicode, no blank query.

        Raises:
            BackendError: the model failed, or a single pair does not fit into memory.
        """

    def describe(self) -> dict[str, object]:
        """Say how the engine works here, as JSON-ready facts: device, dtype, path, counts."""

    def stats(self) -> EngineStats:
        """Say what was done so far; quick, and safe while others score."""

    def memory(self) -> dict[str, int]:
        """Return the bytes that the model takes now, as `Computed` tells them; quick."""

    def close(self) -> None:
        """Free the model, and stop threads and processes."""
