"""Options as people write them."""

from typing import Literal

import pytest

from rerank_plugins import ConfigError
from rerank_plugins._internal.options import checked_options


class Engine:
    def __init__(
        self,
        model: str,
        *,
        batch: int | None = None,
        mode: Literal["fast", "exact"] = "fast",
        strict: bool = False,
        timeout: float = 1.0,
        api_key: str | None = None,
        fixed: str = "",
    ):
        pass


def options(**values):
    return checked_options(Engine, {"model": "m", **values}, what="kind 'engine'", fixed=["fixed"])


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("batch", "16", 16),
        ("batch", "none", None),
        ("batch", None, None),
        ("batch", 16, 16),
        ("mode", "exact", "exact"),
        ("strict", "true", True),
        ("strict", "No", False),
        ("strict", True, True),
        ("timeout", "2.5", 2.5),
        ("timeout", 3, 3.0),
    ],
)
def test_strings_are_converted_to_the_option_type(name, written, expected):
    value = options(**{name: written})[name]

    assert expected == value
    assert type(expected) is type(value)


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("batch", "many", "`batch` must be int or none, not 'many'"),
        ("batch", 1.5, "`batch` must be int or none, not 1.5"),
        ("batch", True, "`batch` must be int or none, not True"),
        ("mode", "slow", "`mode` must be 'fast' or 'exact', not 'slow'"),
        ("model", 3, "`model` must be str, not 3"),
        ("strict", "maybe", "`strict` must be bool, not 'maybe'"),
        ("strict", 1, "`strict` must be bool, not 1"),
        ("timeout", "soon", "`timeout` must be float, not 'soon'$"),
        ("timeout", "10s", "not '10s'; write a number without a unit, in seconds: 10$"),
        ("timeout", "500 ms", "not '500 ms'; write a number without a unit, in seconds: 0.5$"),
        ("timeout", "2min", "in seconds: 120$"),
        ("batch", "4k", "not '4k'; write a number without a unit$"),
        ("mode", "exakt", "not 'exakt'; did you mean 'exact'?"),
    ],
)
def test_the_error_of_a_wrong_value_names_the_valid_ones(name, written, message):
    with pytest.raises(ConfigError, match=message):
        options(**{name: written})


def test_an_unknown_option_lists_the_valid_ones():
    with pytest.raises(ConfigError) as caught:
        options(batches=1)

    assert (
        "unknown option 'batches' for kind 'engine'; did you mean 'batch'? "
        "valid: batch, mode, model, strict, timeout" == str(caught.value)
    )


def test_a_keyword_that_the_kind_sets_is_not_an_option():
    with pytest.raises(ConfigError, match="unknown option 'fixed'"):
        options(fixed="x")


def test_a_missing_option_is_named():
    with pytest.raises(ConfigError, match="kind 'engine' needs the option `model`"):
        checked_options(Engine, {}, what="kind 'engine'")


@pytest.mark.parametrize("name", ["api_key", "token", "password"])
def test_a_secret_is_refused_and_not_repeated(name):
    with pytest.raises(ConfigError, match="environment variable") as caught:
        options(**{name: "hunter2"})

    assert "hunter2" not in str(caught.value)
