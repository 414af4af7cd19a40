"""Which of a classifier's labels means that a document is relevant, and its logit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import ConfigError

__all__ = ["Label", "find_label", "label_logit"]

_RELEVANT = frozenset({"1", "relevant", "true", "yes"})
_GENERIC = re.compile(r"label_\d+")
"""What transformers calls labels that nobody named."""
_TWO = 2
_LISTED = 8
"""Most names of labels in a message."""


@dataclass(frozen=True, slots=True)
class Label:
    """The label whose logit makes the score, of several."""

    index: int
    name: str
    """As the checkpoint calls it, or its number."""
    exclusive: bool = True
    """Whether a pair has exactly one label, so that the others count against it."""


def find_label(
    model: str, config: Mapping[str, Any], count: int, chosen: str | int | None, *, named: bool
) -> Label | None:
    """Return the label that means relevant; None where there is a single score.

    Args:
        model: what to call the model in messages.
        config: `config.json`, which may name the labels.
        count: how many logits a pair has.
        chosen: the name or number of a label, which the user set.
        named: whether the names in `config` are those of these logits.

    Raises:
        ConfigError: neither the files nor the user say which, or there is no such label.
    """
    if count == 1:
        if chosen is not None:
            raise ConfigError(
                f"{model!r} gives one score per pair; `label` is for classifiers with several"
            )
        return None
    names = _names(config, count) if named else [str(index) for index in range(count)]
    index = _relevant(names) if chosen is None else _chosen(names, chosen)
    if index is None:
        listed = ", ".join(map(repr, names[:_LISTED])) + (", …" if count > _LISTED else "")
        problem = "" if chosen is None else f", and none is label {chosen!r}"
        raise ConfigError(
            f"{model!r} gives {count} labels per pair ({listed}){problem}; set `label` to the one "
            f"that means relevant, by its name or number, as in local:MODEL?label={count - 1}"
        )
    return Label(index, names[index], config.get("problem_type") != "multi_label_classification")


def _names(config: Mapping[str, Any], count: int) -> list[str]:
    names = config.get("id2label")
    if not isinstance(names, Mapping) or len(names) != count:
        return [str(index) for index in range(count)]
    return [str(names.get(str(index), index)) for index in range(count)]


def _relevant(names: Sequence[str]) -> int | None:
    """Return the label that its name tells; of two without names, the second by convention."""
    plain = [name.strip().lower() for name in names]
    if len(names) == _TWO and all(
        _GENERIC.fullmatch(name) or name == str(index) for index, name in enumerate(plain)
    ):
        return 1
    known = _RELEVANT if len(names) == _TWO else {"relevant"}
    found = [index for index, name in enumerate(plain) if name in known]
    return found[0] if len(found) == 1 else None


def _chosen(names: Sequence[str], chosen: str | int) -> int | None:
    text = str(chosen).strip()
    for same in (str, str.lower):
        found = [index for index, name in enumerate(names) if same(name) == same(text)]
        if len(found) == 1:
            return found[0]
    return int(text) if text.isdecimal() and int(text) < len(names) else None


def label_logit(logits: NDArray[Any], label: Label) -> float:
    """Return the logit of the probability of a label, from the logits of all, [labels].

    Of two labels that exclude each other it is the difference of their logits.
    """
    logit = float(logits[label.index])
    if not label.exclusive:
        return logit
    return logit - float(np.logaddexp.reduce(np.delete(logits, label.index).astype(np.float64)))
