"""The settings that both adapters share."""

import re

import pytest

from rerank_plugins import ConfigError, load_backend
from rerank_plugins._adapter import _RENAMED, refuse_unknown

SETTINGS = ("backend", "min_score", "top_n")


@pytest.mark.parametrize("name", _RENAMED)
def test_answers_to_other_names_hold_true(name):
    """What they say to write is a spec that loads; what they call a setting is one."""
    with pytest.raises(ConfigError) as caught:
        refuse_unknown([name], valid=SETTINGS, where="Reranker")
    answer = str(caught.value)
    specs = re.findall(r"backend='([^']*)'", answer)

    assert answer.startswith(f"`Reranker`: `{name}` ")
    assert "=" not in re.sub(r"backend='[^']*'", "", answer)
    assert specs or set(re.findall(r"`(\w+)`", answer)) - {name}
    for spec in specs:
        load_backend(spec)


def test_a_name_from_nowhere_lists_the_settings():
    with pytest.raises(
        ConfigError, match=r"did you mean 'top_n'.* valid: backend, min_score, top_n"
    ):
        refuse_unknown(["topn"], valid=SETTINGS, where="Reranker")


def test_no_unknown_setting_is_fine():
    refuse_unknown([], valid=SETTINGS, where="Reranker")
