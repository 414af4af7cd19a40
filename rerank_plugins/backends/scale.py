"""From logits to probabilities: what every backend uses, and when servers need it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rerank_plugins._internal.logistic import sigmoid
from rerank_plugins.errors import InvalidResponse
from rerank_plugins.scores import Scale

__all__ = ["Scaling", "as_probabilities", "may_be_probabilities", "sigmoid", "to_probability"]

_TOLERANCE = 1e-6


def to_probability(logits: Iterable[float], temperature: float = 1.0) -> list[float]:
    """Return the sigmoid of each logit over a temperature, from 0 to 1."""
    return [sigmoid(logit / temperature) for logit in logits]


def as_probabilities(scores: Sequence[float], otherwise: str) -> list[float]:
    """Return scores from 0 to 1, without what rounding puts outside.

    Args:
        scores: what a server sent.
        otherwise: how the message goes on about a score that is none.

    Raises:
        InvalidResponse: a score is further outside.
    """
    for position, score in enumerate(scores):
        if not -_TOLERANCE <= score <= 1 + _TOLERANCE:
            raise InvalidResponse(f"the score of document {position} is {score:.6g}, {otherwise}")
    return [min(max(score, 0.0), 1.0) for score in scores]


def may_be_probabilities(scores: Sequence[float]) -> bool:
    """Whether several scores all lie between 0 and 1, as logits seldom do."""
    return len(scores) > 1 and all(0 <= score <= 1 for score in scores)


@dataclass(frozen=True)
class Scaling:
    """Which scores to request from a server, what it sends, and what to return."""

    raw: bool
    """Whether to request raw scores."""
    sent: Scale
    """What the server sends."""
    scale: Scale
    """What `applied` returns."""

    @classmethod
    def between(
        cls, scale: Literal["probability", "logit"], sent: Scale, *, can_send_raw: bool
    ) -> Scaling | None:
        """Return how to get from the scale that a server sends to `scale`; None: impossible."""
        if scale == "logit" and sent == "probability" and can_send_raw:
            return cls(raw=True, sent="logit", scale="logit")
        if scale == "logit" and sent != "logit":
            return None
        return cls(raw=False, sent=sent, scale="unknown" if sent == "unknown" else scale)

    def applied(self, scores: list[float]) -> list[float]:
        """Return a server's scores on `scale`.

        Raises:
            InvalidResponse: scores that should be probabilities are not between 0 and 1.
        """
        if self.scale != "probability":
            return scores
        if self.sent == "logit":
            return to_probability(scores)
        return as_probabilities(
            scores, "outside 0 to 1, so this server sends logits; set server_scale='logit'"
        )
