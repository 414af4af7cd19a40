"""A backend whose scores are probabilities: a curve that was fitted on judged queries."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

from rerank_plugins._internal.checks import check_choice, check_number
from rerank_plugins._internal.logistic import logit, sigmoid
from rerank_plugins._internal.options import unknown
from rerank_plugins._internal.plain_numbers import plain_number
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins._internal.toml import read_toml
from rerank_plugins.backend import Backend
from rerank_plugins.content import Requests
from rerank_plugins.errors import ConfigError
from rerank_plugins.scores import Scale, Scores
from rerank_plugins.wrappers.base import Call, Flow, WrapperBackend

__all__ = ["CalibratedBackend", "Calibration", "Method"]

Method: TypeAlias = Literal["temperature", "platt", "isotonic"]
"""The form: a logit over a temperature; the sigmoid of a line; a line through rising knots."""

_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "temperature": ("temperature",),
    "platt": ("slope", "offset"),
    "isotonic": ("scores", "probabilities"),
}
"""Method → the fields that describe its curve."""
_TAIL = 1e-3
"""How much of what is left to 0 or 1 the isotonic curve takes beyond its ends."""

_LARGEST = 1e300
"""Of a knot: the distance of two larger ones is no number."""

_logger = logging.getLogger(__name__)
_may_warn = Throttle()


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A rising curve from the scores of one backend to probabilities.

    Scores that are probabilities already enter as their logits, all others as they are.

    Raises:
        ConfigError: a number is missing, superfluous, not finite, or the curve does not rise.
    """

    method: Method
    scale: Scale
    """The scale of the scores that it takes."""
    temperature: float | None = None
    """What logits are divided by, above 0."""
    slope: float | None = None
    """What scores are multiplied by, above 0."""
    offset: float | None = None
    """What is added, before the sigmoid."""
    scores: tuple[float, ...] = ()
    """The knots of the isotonic curve, rising; it is linear between them."""
    probabilities: tuple[float, ...] = ()
    """Its values there, rising, above 0 and below 1."""
    fitted_on: str | None = None
    """The name of the backend whose scores it was fitted on."""

    def __post_init__(self) -> None:
        check_choice("method", self.method, get_args(Method))
        check_choice("scale", self.scale, get_args(Scale))
        if not isinstance(self.fitted_on, str | None):
            raise ConfigError(f"`fitted_on` must be a backend's name, not {self.fitted_on!r}")
        for field in (name for names in _NUMBERS.values() for name in names):
            present = getattr(self, field) not in (None, ())
            if present is not (field in _NUMBERS[self.method]):
                need = "is no number of" if present else "is missing for"
                raise ConfigError(f"`{field}` {need} a calibration by {self.method!r}")
        if self.method == "isotonic":
            self._check_knots()
        elif self.method == "temperature":
            check_scale(self.scale)
            self._check_number("temperature", above=0)
        else:
            self._check_number("slope", above=0)
            self._check_number("offset")

    def _check_number(self, name: str, *, above: float | None = None) -> None:
        check_number(name, getattr(self, name), above=above)
        object.__setattr__(self, name, float(getattr(self, name)))

    def _check_knots(self) -> None:
        for name in ("scores", "probabilities"):
            knots = _as_floats(name, getattr(self, name))
            if any(one >= other for one, other in pairwise(knots)):
                raise ConfigError(f"`{name}` of an isotonic calibration must rise")
            object.__setattr__(self, name, knots)
        if len(self.scores) != len(self.probabilities) or len(self.scores) < 2:  # noqa: PLR2004
            raise ConfigError(
                "`scores` and `probabilities` of an isotonic calibration must be two or more each, "
                f"as many of one as of the other, not {len(self.scores)} and "
                f"{len(self.probabilities)}"
            )
        if not 0 < self.probabilities[0] < self.probabilities[-1] < 1:
            raise ConfigError("`probabilities` of an isotonic calibration lie between 0 and 1")

    @classmethod
    def read(cls, source: str | os.PathLike[str] | Mapping[str, object]) -> Calibration:
        """Read a calibration: the path of a TOML file with a `[calibration]` table, or its keys.

        Raises:
            ConfigError: the file can't be read, or the table is malformed.
        """
        table: object = source
        if isinstance(source, str | os.PathLike):
            table = read_toml(source).get("calibration")
            if not isinstance(table, Mapping):
                raise ConfigError(
                    f"there is no table [calibration] in {os.fspath(source)!r}; write one with: "
                    "rerank-plugins calibrate DATASET --backend SPEC"
                )
        if not isinstance(table, Mapping):
            raise ConfigError(
                "`calibration` must be a table, or the path of a file with one, not "
                f"`{type(table).__name__}`"
            )
        fields = {str(name): value for name, value in table.items()}
        valid = cls.__dataclass_fields__
        for name in fields:
            if name not in valid:
                raise ConfigError(unknown("key", name, valid, " of a calibration"))
        for name in ("method", "scale"):
            if name not in fields:
                raise ConfigError(f"a calibration needs the key `{name}`")
        values: dict[str, Any] = fields
        return cls(**values)

    def table(self) -> dict[str, object]:
        """Return the keys of its table, from which `read()` makes it again."""
        fields = ("method", "scale", *_NUMBERS[self.method], "fitted_on")
        values = {name: getattr(self, name) for name in fields}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }

    @property
    def digest(self) -> str:
        """A hash of the curve: equal curves of equal scores give equal probabilities."""
        curve = {name: value for name, value in self.table().items() if name != "fitted_on"}
        return hashlib.sha256(json.dumps(curve, sort_keys=True).encode()).hexdigest()[:12]

    def probabilities_of(self, scores: Iterable[float]) -> list[float]:
        """Return a probability for each score, from 0 to 1; higher scores never get a lower one."""
        inputs = map(logit, scores) if self.scale == "probability" else scores
        return [self._at(value) for value in inputs]

    def _at(self, value: float) -> float:
        if self.temperature is not None:
            return sigmoid(value / self.temperature)
        if self.slope is not None and self.offset is not None:
            return sigmoid(self.slope * value + self.offset)
        return self._interpolated(value)

    def _interpolated(self, value: float) -> float:
        """Return a point of the isotonic curve, which rises a little beyond its ends, too.

        So scores that differ stay apart, where a step would make ties of them.
        """
        scores, probabilities = self.scores, self.probabilities
        if value <= scores[0]:
            return probabilities[0] * (1.0 - _tail(scores[0] - value))
        if value >= scores[-1]:
            left = (1.0 - probabilities[-1]) * (1.0 - _tail(value - scores[-1]))
            return max(1.0 - left, probabilities[-1])  # 1 - (1 - p) may be less than p
        right = bisect_right(scores, value)
        low, high = probabilities[right - 1], probabilities[right]
        share = (value - scores[right - 1]) / (scores[right] - scores[right - 1])
        return min(max(low + share * (high - low), low), high)


def _tail(beyond: float) -> float:
    """Return how much is taken so far beyond an end; no step of it falls when it is rounded."""
    return _TAIL * (1.0 - 1.0 / (1.0 + beyond))


class CalibratedBackend(WrapperBackend):
    """Turns the scores of a backend into probabilities, by a curve fitted on judged queries.

    `rerank-plugins calibrate` fits it. The curve rises, so the order of documents stays, and
    `min_score` means the same for every backend that is calibrated on the like of its documents.
    The curve is part of the `name`. If the scores come from another model or setting than those it
    was fitted on, a warning is logged, once a minute at most.

    Args:
        wrapped: the backend that scores; pointwise.
        calibration: the curve, its table, or the path of a file with it.

    Raises:
        ConfigError: the calibration is malformed, or the backend is listwise.
    """

    scale: Scale = "probability"

    def __init__(
        self,
        wrapped: Backend,
        *,
        calibration: Calibration | str | os.PathLike[str] | Mapping[str, object],
    ) -> None:
        super().__init__(wrapped)
        if not wrapped.pointwise:
            raise ConfigError(
                f"the scores of {wrapped!r} depend on the other documents of a request, so no "
                "curve makes probabilities of them"
            )
        if not isinstance(calibration, Calibration):
            calibration = Calibration.read(calibration)
        self._calibration = calibration

    @property
    def calibration(self) -> Calibration:
        """The curve."""
        return self._calibration

    @property
    def name(self) -> str:
        return self._named(self.wrapped.name)

    def _named(self, name: str) -> str:
        return f"{name}{'&' if '?' in name else '?'}calibration={self._calibration.digest}"

    @property
    def kind(self) -> str:
        return self.wrapped.kind

    def flow(self, requests: Requests) -> Flow:
        results: list[Scores] = yield Call(self.wrapped, requests)
        if any(results):
            self._check(next(scores.backend for scores in results if scores))
        return [self._calibrated(scores) for scores in results]

    def _check(self, scored_by: str | None) -> None:
        """Check that the curve is one of these scores.

        Raises:
            ConfigError: it was fitted on scores of another scale.
        """
        fitted, scale = self._calibration, self.wrapped.scale
        if scale != fitted.scale:
            raise ConfigError(
                f"the calibration was fitted on scores of the scale {fitted.scale!r}, and "
                f"{self.wrapped.label!r} gives {scale!r}; set its `scale`, or calibrate it anew"
            )
        if fitted.fitted_on not in (None, scored_by) and _may_warn():
            _logger.warning(
                "the calibration was fitted on scores of %s, and these are of %s; calibrate anew "
                "if the model or a setting that changes its scores is another",
                fitted.fitted_on,
                scored_by,
            )

    def _calibrated(self, scores: Scores) -> Scores:
        return replace(
            scores,
            values=tuple(self._calibration.probabilities_of(scores.values)),
            backend=None if scores.backend is None else self._named(scores.backend),
            scale=self.scale,
        )

    def describe(self) -> dict[str, object]:
        wrapped = self.wrapped.describe()
        return {
            **wrapped,
            "name": self._named(str(wrapped["name"])),
            "scale": self.scale,
            "calibration": self._calibration.table(),
        }

    def to_spec(self) -> dict[str, object]:
        """Return the spec of the backend with the calibration in it.

        Raises:
            ConfigError: the backend can't be written as a spec, or is no single one.
        """
        spec = self.wrapped.to_spec()
        if "kind" not in spec or "calibration" in spec:
            raise ConfigError(
                f"{self!r} can't be written as a spec: a file puts one calibration inside of "
                "all other wrappers"
            )
        return {**spec, "calibration": self._calibration.table()}


def check_scale(scale: Scale) -> None:
    """Check that a temperature means something for scores of a scale.

    Raises:
        ConfigError: they are no logits, nor what a sigmoid made of logits.
    """
    if scale not in ("probability", "logit"):
        raise ConfigError(
            f"`temperature` divides logits, and the scale of the scores is {scale!r}; calibrate by "
            "'platt' or 'isotonic'"
        )


def _as_floats(name: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ConfigError(f"`{name}` of a calibration must be a list of numbers, not {values!r}")
    floats = [plain_number(value) for value in values]
    if any(value is None or not -_LARGEST <= value <= _LARGEST for value in floats):
        raise ConfigError(
            f"`{name}` of a calibration must be finite numbers, of {_LARGEST:g} at most"
        )
    return tuple(float(value) for value in floats if value is not None)
