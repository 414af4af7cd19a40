"""Numbers of other libraries, such as NumPy's, as Python's own."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

__all__ = ["plain_integer", "plain_number", "with_plain_numbers"]


def plain_integer(value: object) -> int | None:
    """Return what is an integer as an `int`; None if it is none. A boolean is none."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array of several numbers, or NumPy's booleans
        return None


def plain_number(value: object) -> int | float | None:
    """Return what is a real number as an `int` or a `float`; None if it is none, or a boolean."""
    integer = plain_integer(value)
    if integer is not None or isinstance(value, bool) or not isinstance(value, Real):
        return integer
    return float(value)


def with_plain_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that JSON can write: what is a number is Python's own."""
    return {
        name: value if (number := plain_number(value)) is None else number
        for name, value in values.items()
    }
