"""The settings that both adapters share."""

import re

import pytest

from rerank_plugins import ConfigError, Query, load_backend
from rerank_plugins._adapter import _RENAMED, instructed, refuse_unknown

SETTINGS = ("backend", "min_score", "top_n")


@pytest.mark.parametrize("name", _RENAMED)
def test_hints_for_other_names_are_correct(name):
    """Every spec that a hint suggests loads, and every setting that it names exists."""
    with pytest.raises(ConfigError) as caught:
        refuse_unknown([name], valid=SETTINGS, where="Reranker")
    answer = str(caught.value)
    specs = re.findall(r"backend='([^']*)'", answer)

    assert answer.startswith(f"`Reranker`: `{name}` ")
    assert "=" not in re.sub(r"backend='[^']*'", "", answer)
    assert specs or set(re.findall(r"`(\w+)`", answer)) - {name}
    for spec in specs:
        load_backend(spec)


def test_the_error_for_an_unknown_name_lists_the_settings():
    with pytest.raises(
        ConfigError, match=r"did you mean 'top_n'.* valid: backend, min_score, top_n"
    ):
        refuse_unknown(["topn"], valid=SETTINGS, where="Reranker")


def test_no_unknown_setting_is_fine():
    refuse_unknown([], valid=SETTINGS, where="Reranker")


@pytest.mark.parametrize(
    ("query", "instruction", "expected"),
    [
        ("q", None, "q"),
        ("q", "find", Query("q", instruction="find")),
        (Query("q"), "find", Query("q", instruction="find")),
        (Query("q", instruction="own"), "find", Query("q", instruction="own")),
        (Query(image="i.png"), "find", Query(image="i.png", instruction="find")),
    ],
)
def test_a_query_gets_an_instruction_unless_it_has_one(query, instruction, expected):
    assert expected == instructed(query, instruction)
