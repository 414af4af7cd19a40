"""JSON from servers: counted before it is built, and never what only a hostile one would send."""

import json
import sys

import pytest

from rerank_plugins import BackendError, InvalidResponse
from rerank_plugins.backends.http import reading
from rerank_plugins.backends.http.reading import parse_json, parse_message
from rerank_plugins.backends.http.responses import HTTPResponse


def parse(text, max_values=100):
    return parse_json(HTTPResponse(200, {}, text.encode()), max_values=max_values)


MANY = {
    "lists": "[" + "[]," * 200 + "[]]",
    "lists in lists": "[" * 200 + "]" * 200,
    "names": json.dumps({f"name {number}": 0 for number in range(200)}),
    "numbers": json.dumps([0] * 200),
    "objects": "[" + "{}," * 200 + "{}]",
    "objects in lists": '[{"a":' * 200 + "0" + "}]" * 200,
    "strings": json.dumps(["\\"] * 200),
    "what ends too early": "[[]," * 200,
}


@pytest.mark.parametrize("case", MANY)
def test_more_values_than_were_asked_for_are_not_built(monkeypatch, case):
    monkeypatch.setattr(reading, "_STRICT", None)  # it would fail

    with pytest.raises(BackendError, match="more than 100 values"):
        parse(MANY[case])


HARMLESS = {
    "brackets": "[{" * 200,
    "commas": "," * 2000,
    "escapes": '\\",[' * 200,
    "quotes": '",["' * 90,
    "letters": "\u4e2d\U0001f43c" * 2000,
}


@pytest.mark.parametrize("case", HARMLESS)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_stands_in_a_string_counts_once(case, ascii_only):
    """A server may repeat a document, whatever it holds."""
    body = {"results": [{"index": 0, "score": 0.5, "document": HARMLESS[case]}]}

    assert body == parse(json.dumps(body, ensure_ascii=ascii_only))


@pytest.mark.parametrize("limit", [None, 0], ids=["Python's limit", "no limit"])
@pytest.mark.parametrize("digits", ["9" * 100_000, "-" + "1" * 5_000])
def test_long_integers_are_not_converted(limit, digits):
    """The time is quadratic; Python's own limit can be lifted."""
    before = sys.get_int_max_str_digits()
    if limit is not None:
        sys.set_int_max_str_digits(limit)
    try:
        with pytest.raises(InvalidResponse, match="not valid JSON"):
            parse(f"[{digits}]")
        with pytest.raises(ValueError, match="digits"):
            parse_message(digits)
    finally:
        sys.set_int_max_str_digits(before)


@pytest.mark.parametrize(("opening", "closing"), ["[]", ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_has_a_limit(opening, closing):
    """That of the interpreter."""
    parse(opening * 30 + "0" + closing * 30)
    with pytest.raises(BackendError, match="nested too deeply"):
        parse(opening * 100_000 + "0" + closing * 100_000, 10**6)


@pytest.mark.parametrize("text", ['{"document": "panda', '"panda" panda', "{'panda': 1}"])
def test_an_error_holds_nothing_of_the_text(text):
    """That of the parser has all of it as an attribute."""
    with pytest.raises(InvalidResponse) as caught:
        parse(text)

    assert (None, None) == (caught.value.__cause__, caught.value.__context__)
    assert "panda" not in str(caught.value)
