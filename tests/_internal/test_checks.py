"""Each check names the setting, what it may be, and the value."""

import math
import re
from functools import partial

import pytest

from rerank_plugins import ConfigError
from rerank_plugins._internal.checks import (
    check_boolean,
    check_choice,
    check_integer,
    check_number,
)

seconds = partial(check_number, "timeout", above=0, unit="seconds")


@pytest.mark.parametrize("value", [True, False, "512", 1.0, 1.5, 0, -1, None, [1], math.nan])
def test_values_that_are_not_positive_integers_are_refused(value):
    with pytest.raises(ConfigError, match=r"^`n` must be an integer of at least 1, not ") as caught:
        check_integer("n", value)

    assert repr(value) in str(caught.value)


def test_none_is_accepted_only_for_an_optional_integer():
    check_integer("n", None, optional=True)
    check_integer("n", 0, least=0)
    with pytest.raises(ConfigError, match="`n` must be None or an integer of at least 1, not 0"):
        check_integer("n", 0, optional=True)


@pytest.mark.parametrize(
    "value", ["10", True, 0, -1.0, math.inf, math.nan, None, b"1", 1j, 10**400]
)
def test_values_that_are_not_numbers_within_bounds_are_refused(value):
    message = f"`timeout` must be a number of seconds above 0, not {value!r}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        seconds(value)


def test_numbers_within_bounds_pass():
    seconds(1)
    seconds(0.5)
    check_number("slow", math.inf, least=0, finite=False)
    check_number("p", 1.0, above=0, most=1)
    check_number("ttl", None, above=0, optional=True)


def test_the_error_states_all_bounds():
    with pytest.raises(ConfigError, match=r"must be a number above 0 and of at most 1, not 1\.5"):
        check_number("fraction", 1.5, above=0, most=1)
    with pytest.raises(ConfigError, match="must be None or a finite number, not inf"):
        check_number("x", math.inf, optional=True)


def test_choices_are_listed():
    check_choice("scale", "logit", ("probability", "logit"))
    check_choice("scale", None, ("probability", "logit"), optional=True)
    with pytest.raises(ConfigError, match="unknown `scale` 'logits'; did you mean 'logit'"):
        check_choice("scale", "logits", ("probability", "logit"))


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_only_booleans_are_accepted_for_a_switch(value):
    with pytest.raises(ConfigError, match="`compile` must be True or False"):
        check_boolean("compile", value)
    check_boolean("compile", True)
