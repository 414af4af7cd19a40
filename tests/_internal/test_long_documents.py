"""How windows make a score, and the settings of it."""

import random
from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rerank_plugins import ConfigError
from rerank_plugins._internal.long_documents import LongDocuments, pool
from rerank_plugins.backends.embedded.backend import EmbeddedBackend
from rerank_plugins.backends.local.backend import LocalBackend

SCORES = st.lists(st.floats(-30, 30), min_size=1, max_size=20)


@given(SCORES, st.integers(1, 25), st.data())
def test_a_score_grows_with_that_of_each_window(scores, best_windows, data):
    place = data.draw(st.integers(0, len(scores) - 1))
    better = [*scores]
    better[place] += data.draw(st.floats(0, 10))

    assert pool(better, best_windows)[0] >= pool(scores, best_windows)[0]


@given(SCORES, st.integers(1, 25), st.randoms())
@example([-22.067479680705723] * 3, 3, random.Random(0))
def test_a_score_lies_between_its_windows_in_any_order(scores, best_windows, chosen):
    shuffled = chosen.sample(scores, len(scores))
    score, best = pool(scores, best_windows)

    assert min(scores) <= score <= max(scores) == scores[best]
    assert score == pool(shuffled, best_windows)[0]
    assert max(scores) == pool(scores, 1)[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"long_documents": "worst"},
        {"best_windows": 0},
        {"max_windows": 0},
        {"window_tokens": 0},
        {"window_tokens": 1.5},
    ],
    ids=str,
)
def test_wrong_settings_are_refused_by_name(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LongDocuments(**settings)


def test_the_name_says_what_makes_scores():
    names = [
        LongDocuments(**settings).name
        for settings in (
            {},
            {"long_documents": "truncate"},
            {"long_documents": "error"},
            {"best_windows": 3},
            {"max_windows": 3},
            {"window_tokens": 3},
        )
    ]

    assert len(names) == len({*names})
    assert "" == LongDocuments(long_documents="truncate").name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"best_windows": 2, "max_windows": 1}, "`best_windows` is 2, and `max_windows`=1 allows"),
        ({"window_tokens": 9, "max_windows": 1}, "`window_tokens` is for .* with max_windows=1"),
        ({"best_windows": 2, "long_documents": "truncate"}, "`best_windows` .*='truncate'"),
        ({"window_tokens": 9, "long_documents": "truncate"}, "`window_tokens` .*='truncate'"),
        ({"window_tokens": 9, "long_documents": "error"}, "`window_tokens` .*='error'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("build", [LongDocuments, EmbeddedBackend, partial(LocalBackend, "m")])
def test_no_setting_is_ignored_in_silence(build, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)
