"""Normalization in linear time: the same text as that of Python."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rerank_plugins._internal import nfkc as module
from rerank_plugins._internal.nfkc import nfkc

MARKS = "\u0301\u0316\u0345\u0344\u0f73\u0f71\u0f72\uff9e\uff9f\u3099\u0327\u1dce\u20d0"
"""Marks of several classes; some are decomposed into others, two are letters for Python."""
WORST = {
    "two that alternate": "\u0316\u0301",
    "decomposed into two": "\u0f73",
    "letters": "\uff9e\u0301\u0316",
    "all": MARKS,
    "in order": "\u0316" * 40 + "\u0301" * 40,
    "with white space": "\u0301\u00a0\u0316",
}


@given(st.text(st.sampled_from(MARKS + "ae\u1100\u1161\u00e9\u304b \u2003.。"), max_size=200))
@example("e" + MARKS * 5 + "a" + MARKS * 3)
def test_it_is_the_same_text(text):
    assert unicodedata.normalize("NFKC", text) == nfkc(text)


@given(st.text(min_size=0, max_size=60))
def test_it_is_the_same_for_all_of_unicode(text):
    assert unicodedata.normalize("NFKC", text * 3) == nfkc(text * 3)


def test_no_mark_is_taken_for_a_letter():
    """What begins with a mark once it is decomposed; a later Unicode may have more."""
    marks = "".join(
        character
        for character in map(chr, range(0x110000))
        if unicodedata.combining(unicodedata.normalize("NFKD", character)[0])
    )

    assert marks == module._LONG_RUN.fullmatch(marks)[0]


@pytest.mark.parametrize("name", WORST)
def test_marks_are_sorted_before_python_takes_quadratic_time(name, monkeypatch):
    """It moves each mark before all that come later; 20 s for 200,000."""
    seen = []
    real = unicodedata.normalize
    monkeypatch.setattr(
        module, "normalize", lambda form, text: seen.append((form, text)) or real(form, text)
    )
    text = "\u00e9" + (WORST[name] * 2000)[:2000] + "a"

    assert real("NFKC", text) == nfkc(text)
    (whole,) = (text for form, text in seen if form == "NFKC")
    orders = [unicodedata.combining(mark) for mark in real("NFKD", whole[1:])]
    given = [unicodedata.combining(mark) for mark in "".join(real("NFKD", c) for c in whole[1:])]
    assert orders == given
