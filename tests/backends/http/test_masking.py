"""Keys that a server writes back: whole, escaped, cut short, in pieces."""

import urllib.parse

import pytest

from rerank_plugins import BackendError
from rerank_plugins._internal.secret import Secret
from rerank_plugins.backends.http.masking import mask
from rerank_plugins.testing import FakeResponse
from tests.backends.http.remote import make

KEY = "sk-proj/Zq8+T4vWx2=Lm9Rk7Yb3"  # made up
PARTS = [KEY[at : at + 8] for at in range(len(KEY) - 7)]

SHOWN = {
    "an end": f"the key …{KEY[-9:]} is wrong",
    "a start": f"the key {KEY[:12]}… is wrong",
    "a start, twice": f"{KEY[:12]} and {KEY[:12]}",
    "at the end of a page": "x " * 80 + KEY[:20],
    "escaped JSON": "key " + KEY.replace("/", "\\/"),
    "hexadecimal escapes": "key " + "".join(f"\\x{ord(letter):02x}" for letter in KEY),
    "in capitals": f"KEY {KEY.upper()}",
    "in groups": "key " + "-".join(KEY[at : at + 4] for at in range(0, len(KEY), 4)),
    "in quotes": "key " + " ".join(repr(letter) for letter in KEY),
    "numbered entities": "key " + "".join(f"&#{ord(letter)};" for letter in KEY),
    "Unicode escapes": "key " + "".join(f"\\u{ord(letter):04x}" for letter in KEY),
    "URL, cut": "key " + urllib.parse.quote(KEY, safe="")[:15],
    "URL, all of it": "key " + "".join(f"%{ord(letter):02X}" for letter in KEY),
    "URL, twice": "key " + urllib.parse.quote(urllib.parse.quote(KEY, safe=""), safe=""),
    "whole": f"the key {KEY} is wrong",
}


@pytest.mark.parametrize("case", SHOWN)
def test_no_part_of_a_key_is_shown(case):
    masked = mask(SHOWN[case], Secret(KEY))

    assert not [part for part in PARTS if part.casefold() in masked.casefold()]


@pytest.mark.parametrize("case", SHOWN)
@pytest.mark.parametrize("status", [200, 401])
def test_no_error_shows_a_part_of_a_key(fake_server, ask, case, status):
    fake_server.response = FakeResponse({"error": SHOWN[case]}, status)

    with pytest.raises(BackendError) as caught:
        ask(make(fake_server, api_key=KEY))

    assert not [part for part in PARTS if part.casefold() in str(caught.value).casefold()]


def test_a_key_that_the_cut_would_halve_is_masked(fake_server, ask):
    for padding in range(170, 200, 3):
        fake_server.response = FakeResponse({"error": "x" * padding + KEY}, 400)

        with pytest.raises(BackendError) as caught:
            ask(make(fake_server, api_key=KEY))

        assert KEY[:4] not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["documents must not be empty", "Team 7 of gpu-1 has no quota", "é 中 \U0001f43c %zz \\u00"],
)
@pytest.mark.parametrize("key", ["", "EMPTY", "none", KEY, "team-gpu"])
def test_other_words_stay(text, key):
    assert text == mask(text, Secret(key))
