"""Templates: what is filled in can't break out, and layout leaves no trace."""

import sys

import pytest

from rerank_plugins._internal.html import HTML, Templates, join

EVIL = """<script>alert("x")</script>'&$name"""
ESCAPED = "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&#x27;&amp;$name"


@pytest.fixture
def templates(tmp_path, monkeypatch):
    package = tmp_path / "made_up_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "page.html").write_text(
        "What this is for.\n\n"
        '<!-- box -->\n<div\n  style="$style">\n  <b>\n    $name\n  </b>\n  $text\n</div>\n\n'
        "<!-- two-words -->\n${one}a\nb\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield Templates("made_up_package", "page.html", constants={"style": "color:red"})
    sys.modules.pop("made_up_package", None)


def test_values_are_escaped(templates):
    box = templates.fill("box", name=EVIL, text=5)

    assert f'<div style="color:red"><b>{ESCAPED}</b>5</div>' == box
    assert isinstance(box, HTML)


def test_html_is_filled_in_without_escaping(templates):
    inner = templates.fill("box", name="a", text="b")

    assert inner in templates.fill("box", name=inner, text="")


def test_joined_parts_are_escaped_unless_they_are_html(templates):
    assert f"<i>{ESCAPED}" == join([HTML("<i>"), EVIL])


def test_words_on_two_lines_stay_apart(templates):
    assert "1a b" == templates.fill("two-words", one=1)


@pytest.mark.parametrize("values", [{}, {"name": "a"}])
def test_a_missing_value_is_an_error(templates, values):
    with pytest.raises(KeyError):
        templates.fill("box", **values)
