"""Backends that score together: reciprocal rank fusion."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, Literal, TypeAlias, get_args

from rerank_plugins._internal.checks import check_choice, check_integer
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.backend import UNCALIBRATED, Backend
from rerank_plugins.content import Requests
from rerank_plugins.errors import BackendError, BackendRejected, ConfigError, RerankError
from rerank_plugins.hooks import FellBack, outcome_of
from rerank_plugins.hooks._dispatch import emit
from rerank_plugins.scores import Passage, Scale, Scores
from rerank_plugins.wrappers._specs import spec_of_chain
from rerank_plugins.wrappers.base import CallEach, Flow, WrapperBackend

__all__ = ["EnsembleBackend", "OnFailure"]

OnFailure: TypeAlias = Literal["raise", "skip"]
"""What to do when one backend fails and another does not."""

_logger = logging.getLogger(__name__)
_may_warn = Throttle()


class EnsembleBackend(WrapperBackend):
    """Scores with several backends side by side, and fuses their rankings.

    Reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009): a document's score is the sum of
    1 / (k + rank) over the backends, where documents that a backend scores alike have one rank, the
    best of them. So scores of different scales fuse, and equal documents score alike. The sums
    order the documents of one request and mean nothing else: the scale is `"unknown"`, and they are
    not cached; the scores of the backends inside may be.

    A document counts as truncated or chunked if it was for one backend, and what was read of it is
    the least of all. Its passage is that of the first backend that tells one; usage is added up.

    Args:
        backends: two backends or more.
        k: how much less the first ranks outweigh the others; 60 in the paper.
        on_failure: `"raise"`: the failure of one backend is that of all. `"skip"`: those that
            answer are fused, `Scores.backend` names them, and a warning is logged; if none
            answers, the first failure is raised. Refusals of the input, the key or a setting are
            raised in any case.

    Raises:
        ConfigError: there are fewer than two, or an option is out of range.
    """

    scale: Scale = "unknown"

    def __init__(
        self, backends: Sequence[Backend], *, k: int = 60, on_failure: OnFailure = "raise"
    ) -> None:
        if isinstance(backends, Backend) or len(backends) < 2:  # noqa: PLR2004  # as it says
            raise ConfigError(f"`backends` must be a list of two or more, not {backends!r}")
        super().__init__(*backends)
        check_integer("k", k, least=1)
        check_choice("on_failure", on_failure, get_args(OnFailure))
        self._k = k
        self._on_failure: OnFailure = on_failure
        self.cacheable = self.pointwise = False

    @classmethod
    def _rebuilt(cls, children: Sequence[Backend], options: Mapping[str, Any]) -> Backend:
        return cls(children, **options)

    @property
    def name(self) -> str:
        """The names of all backends; loads their models."""
        return self._name_of([backend.name for backend in self.children])

    @property
    def kind(self) -> str:
        return "ensemble"

    @property
    def model(self) -> None:
        return None

    @property
    def label(self) -> str:
        return " + ".join(backend.label for backend in self.children)

    @property
    def endpoint(self) -> str | None:
        return ",".join(filter(None, (child.endpoint for child in self.children))) or None

    def _name_of(self, names: Sequence[str]) -> str:
        return f"rrf(k={self._k}; {' + '.join(names)})"

    def flow(self, requests: Requests) -> Flow:
        if not any(documents for _, documents in requests):
            return [Scores((), scale=self.scale) for _ in requests]
        skips = self._on_failure == "skip"
        results: list[list[Scores] | RerankError] = yield CallEach(
            self.children, requests, _is_failure if skips else _never
        )
        answers: list[list[Scores]] = []
        for backend, result in zip(self.children, results, strict=True):
            if not isinstance(result, RerankError):
                answers.append(result)
                continue
            emit(FellBack(outcome_of(result), "backend"))
            if _may_warn():
                _logger.warning("%s failed, fusing without it: %s", backend.label, result)
        if not answers:
            raise next(result for result in results if isinstance(result, RerankError))
        return [self._fused(members) for members in zip(*answers, strict=True)]

    def _fused(self, members: Sequence[Scores]) -> Scores:
        """Return the fused scores of one request."""
        places = [_places(member.values) for member in members]
        read: dict[int, float] = {}
        windows: dict[int, int] = {}
        passages: dict[int, Passage] = {}
        highlights: dict[int, Passage] = {}
        for member in reversed(members):
            for at, share in member.read.items():
                read[at] = min(share, read.get(at, 1.0))
            windows |= member.windows
            passages |= member.passages
            for at in member.passages:  # a sentence of another passage is none of this one
                highlights.pop(at, None)
            highlights |= member.highlights
        usages = [member.usage for member in members if member.usage is not None]
        return Scores(
            [sum(1.0 / (self._k + rank) for rank in ranks) for ranks in zip(*places, strict=True)],
            backend=self._name_of([member.backend or "?" for member in members]),
            label=" + ".join([member.label or "?" for member in members]),
            scale=self.scale,
            truncated=frozenset().union(*(member.truncated for member in members)),
            read=read,
            windows=windows,
            passages=passages,
            highlights=highlights,
            cached=sum(member.cached for member in members),
            usage=reduce(add, usages) if usages else None,
        )

    def describe(self) -> dict[str, object]:
        return {
            "name": self.name,
            "scale": self.scale,
            "cacheable": self.cacheable,
            "calibration": UNCALIBRATED,
            "fusion": {"k": self._k, "on_failure": self._on_failure},
            "backends": [backend.describe() for backend in self.children],
        }

    def to_spec(self) -> dict[str, object]:
        """Return the tables of a configuration file.

        Raises:
            ConfigError: no file builds this: a backend in it is a chain or can't be written as a
                spec, or the backends have different wrappers, where a table such as `[cache]`
                holds for all.
        """
        spec = spec_of_chain(self, "ensemble")
        options = {"k": self._k, "on_failure": self._on_failure}
        return {**spec, "fusion": options}


def _places(values: Sequence[float]) -> list[int]:
    """Return the rank of each score, from 1; equal scores share the best of theirs."""
    best: dict[float, int] = {}
    for rank, value in enumerate(sorted(values, reverse=True), start=1):
        best.setdefault(value, rank)
    return [best[value] for value in values]


def _is_failure(error: RerankError) -> bool:
    """Whether a backend failed, rather than its caller."""
    return isinstance(error, BackendError) and not isinstance(error, BackendRejected)


def _never(_: RerankError) -> bool:
    return False
