"""The one set of checks of settings: integers, numbers, choices, switches.

Values from spec strings and TOML are coerced by `options` first; what Python code passes arrives
here as it is. Each check raises `ConfigError` that names the setting, what it may be and its value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeGuard

from rerank_plugins._internal.options import unknown
from rerank_plugins._internal.plain_numbers import plain_integer, plain_number
from rerank_plugins.errors import ConfigError

__all__ = ["check_boolean", "check_choice", "check_integer", "check_number"]


def check_integer(name: str, value: object, *, least: int = 1, optional: bool = False) -> None:
    """Check that a setting is an integer of at least `least`, or None where it is `optional`."""
    if value is None and optional:
        return
    integer = plain_integer(value)
    if integer is None or integer < least:
        raise ConfigError(
            f"`{name}` must be {_none(optional)}an integer of at least {least}, not {value!r}"
        )


def check_number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    optional: bool = False,
    finite: bool = True,
    unit: str = "",
) -> None:
    """Check that a setting is a number within bounds, or None where it is `optional`.

    Args:
        name: the setting.
        value: its value.
        least: the smallest number allowed.
        above: the number that it must exceed.
        most: the largest number allowed.
        optional: whether None is allowed.
        finite: whether infinity is refused.
        unit: what the number counts, for the message, as in "seconds".
    """
    if value is None and optional:
        return
    if (
        not _is_number(value)
        or (finite and abs(value) == math.inf)
        or (least is not None and value < least)
        or (above is not None and value <= above)
        or (most is not None and value > most)
    ):
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("of at least", least), ("above", above), ("of at most", most))
            if bound is not None
        ]
        kind = "a number" if not finite or bounds else "a finite number"
        counted = f"{kind} of {unit}" if unit else kind
        allowed = " ".join(filter(None, [counted, " and ".join(bounds)]))
        raise ConfigError(f"`{name}` must be {_none(optional)}{allowed}, not {value!r}")


def check_choice(
    name: str, value: object, choices: Iterable[object], *, optional: bool = False
) -> None:
    """Check that a setting is one of `choices`, or None where it is `optional`."""
    if value is None and optional:
        return
    valid = list(choices)
    if value not in valid:
        raise ConfigError(unknown(f"`{name}`", str(value), map(str, valid)))


def check_boolean(name: str, value: object) -> None:
    """Check that a setting is True or False; 1 and "true" are neither."""
    if not isinstance(value, bool):
        raise ConfigError(f"`{name}` must be True or False, not {value!r}")


def _is_number(value: object) -> TypeGuard[float]:
    try:
        number = plain_number(value)
        return number is not None and not math.isnan(number)
    except OverflowError:  # an integer that no float holds
        return False


def _none(optional: bool) -> str:  # noqa: FBT001  # the setting's own word
    return "None or " if optional else ""
