"""What the compressor and the retriever share: settings, and how they are written down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from langchain_core.load.serializable import (
    Serializable,
    SerializedConstructor,
    SerializedNotImplemented,
)
from pydantic import ConfigDict, InstanceOf, field_serializer

from rerank_plugins._adapter import (
    DEFAULT_TOP_N,
    Keep,
    OnError,
    check_keep,
    check_on_error,
    check_settings,
    refuse_unknown,
    settings_of,
)
from rerank_plugins._internal.rank_fields import RankFields, check_rank_fields
from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError
from rerank_plugins.ranking import Selection
from rerank_plugins.spec import BackendSpec, load_backend

__all__ = ["MODEL_CONFIG", "Reranker"]

MODEL_CONFIG = ConfigDict(
    arbitrary_types_allowed=True,
    extra="forbid",
    hide_input_in_errors=True,  # a rejected setting may be a key
    validate_assignment=True,
)
"""For each class itself: of several bases, pydantic listens to the last."""

_PUBLIC = ["rerank_plugins", "langchain"]


class Reranker(Serializable):
    """The settings of both classes, and how they are written down."""

    backend: InstanceOf[Backend]
    """What scores the documents."""
    top_n: int | None = DEFAULT_TOP_N
    """How many documents to keep at most; None keeps all, 0 none."""
    min_score: float | None = None
    """The lowest score to keep, on the scale of the backend; None keeps all."""
    min_gap: float | None = None
    """The fall of the score that ends the ranking, on the scale of the backend."""
    max_tokens: int | None = None
    """How many tokens the documents may have together."""
    count_tokens: Any = None
    """What counts the tokens: a function, the path of a `tokenizer.json`, or None: an estimate."""
    distinct: float | None = None
    """The share of a document that must stand in a better one to leave it out, 0 to 1."""
    rank_fields: list[str] | str | None = None
    """Which fields are scored; None: the content alone."""
    instruction: str | None = None
    """What the model should judge; None leaves it to the backend."""
    on_error: OnError = "raise"
    """Whether a failure of the backend is raised, or leaves the documents in their order."""
    keep: Keep = "document"
    """Whether documents come back whole, or those read in windows as their best passage."""

    def __init__(
        self,
        *,
        backend: BackendSpec,
        selection: Selection,
        rank_fields: RankFields,
        instruction: str | None,
        on_error: OnError,
        keep: Keep,
        unknown: Iterable[str],
        **others: Any,
    ) -> None:
        """Check the settings before pydantic does: its errors are not ours, and show values."""
        refuse_unknown(unknown, valid=type(self).model_fields, where=type(self).__name__)
        scorer = load_backend(backend)
        check_settings(scorer, selection, instruction=instruction)
        check_on_error(on_error)
        check_rank_fields(rank_fields)
        check_keep(keep)
        super().__init__(
            backend=scorer,
            **settings_of(selection),
            rank_fields=rank_fields if isinstance(rank_fields, str | None) else [*rank_fields],
            instruction=instruction,
            on_error=on_error,
            keep=keep,
            **others,
        )

    @field_serializer("backend", when_used="json")
    def _as_spec(self, backend: Backend) -> dict[str, object]:
        return backend.to_spec()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # A copy shares the backend, so that no model is loaded twice.
        return self.model_copy()

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        namespace = super().get_lc_namespace()  # the module that the class stands in
        return [*_PUBLIC] if namespace[: len(_PUBLIC)] == _PUBLIC else namespace

    @property
    def lc_attributes(self) -> dict[str, Any]:
        return {"backend": self.backend.to_spec()}

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        if callable(self.count_tokens):  # a function can't be written
            return self.to_json_not_implemented()
        try:
            return super().to_json()
        except ConfigError:  # the backend can't be written as a spec; tracers dump what they see
            return self.to_json_not_implemented()
