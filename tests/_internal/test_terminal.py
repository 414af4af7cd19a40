"""Text of others in a terminal: harmless on one line, and the same in JSON."""

import json
import sys
import unicodedata

import pytest

from rerank_plugins._internal.terminal import escaped, to_json

HOSTILE = {
    "a bell": "\x07",
    "a C1 escape": "\x9b31m",
    "a carriage return": "good\rbad",
    "a hidden tag": "\U000e0041",
    "a line feed": "good\nerror: bad",
    "a link": "\x1b]8;;http://evil\x1b\\text",
    "a mark of direction": "\u200f",
    "a title": "\x1b]0;title\x07",
    "an Arabic letter mark": "\u061c",
    "an isolate": "\u2067txt.exe\u2069",
    "an override": "\u202etxt.exe",
    "colour": "\x1b[31mred",
    "delete": "\x7f",
    "separators": "\x85\u2028\u2029",
}


def is_harmless(text):
    return not [letter for letter in text if unicodedata.category(letter) in ("Cc", "Zl", "Zp")]


@pytest.mark.parametrize("case", HOSTILE)
def test_text_on_a_line_is_harmless(case):
    shown = escaped(HOSTILE[case])

    assert is_harmless(shown)
    assert shown.isprintable()


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("case", HOSTILE)
def test_json_is_harmless_and_says_the_same(case, indent):
    document = {HOSTILE[case]: [HOSTILE[case], "é 中 \U0001f43c"]}
    text = to_json(document, indent=indent)

    assert document == json.loads(text)
    assert text.replace("\n", "").isprintable()
    assert "é 中 \U0001f43c" in text


def test_no_control_and_no_mark_of_direction_is_forgotten():
    for number in range(sys.maxunicode + 1):
        letter = chr(number)
        drives = unicodedata.category(letter) in ("Cc", "Zl", "Zp")
        reorders = unicodedata.bidirectional(letter) in (
            *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"),
        )
        if drives or reorders:
            assert letter not in escaped(letter)


@pytest.mark.parametrize("text", ["", "é 中 👨‍👩‍👧", "שלום", "a\u00a0b"])
def test_other_text_stays(text):
    assert text == escaped(text)
